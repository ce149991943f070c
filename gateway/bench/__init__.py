"""``gateway bench``: what this installation can do on this machine, measured and drawn.

results          what a run found: figures, series, the machine; their JSON
comparison       two reports beside each other: what became worse, by more than noise
table            a report as one table for the terminal
page             a report as one HTML file, which loads nothing and runs no script
pictures         its lines, and its bars beside peers, each with its numbers as text
summary_picture  the one picture for a README
line_charts bar_charts axes svg amounts captions rows meanings
                 what these are drawn from: lines and bars, scales with round ticks, elements of SVG; numbers, dates and figures in words
"""
