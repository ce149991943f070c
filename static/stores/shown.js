// The publications of a channel that are shown, oldest first: a list that what arrives, what history holds and gaps change.

export class Shown {
  publications = []; // a new array whenever it changes
  #limit; // the oldest are dropped first
  #generation = 0; // of offsets: a gap may begin another epoch, in which they are used again
  #lastBeforeGap; // the key of the newest publication from before the last gap
  #count = 0; // of those without an offset

  constructor(limit) {
    this.#limit = limit;
  }

  /** The oldest that is in history; undefined if none is. */
  get oldest() {
    return this.publications.find(({ offset }) => offset);
  }

  /** Makes room for so many more than there are. */
  extend(count) {
    this.#limit = Math.max(this.#limit, this.publications.length + count);
  }

  clear() {
    this.#generation += 1;
    this.publications = [];
  }

  /** The publication with a key that no other has. */
  keyed(publication) {
    const { offset } = publication;
    return { ...publication, key: offset ? `${this.#generation}-${offset}` : `e${++this.#count}` };
  }

  /** Adds a publication that arrived, unless history brought it already. Returns whether others were dropped for it. */
  append(publication) {
    const { offset } = publication;
    const known = this.publications.findLast(({ offset }) => offset)?.offset ?? 0;
    return offset && offset <= known ? false : this.#hold([...this.publications, publication]);
  }

  /**
   * Adds what history holds, newest first, before what is shown already, but after what is from before a gap. Returns whether others were
   * dropped for it.
   */
  insert(found) {
    const first = this.oldest?.offset ?? Infinity;
    const older = found.filter(({ offset }) => offset < first).reverse();
    const start = this.publications.findIndex(({ key }) => key === this.#lastBeforeGap) + 1;
    return this.#hold(this.publications.toSpliced(start, 0, ...older.map((each) => this.keyed(each))));
  }

  /** What is shown may lack publications after it; their offsets may be of another epoch, and are not comparable with those that follow. */
  breakOff() {
    this.#generation += 1;
    this.#lastBeforeGap = this.publications.at(-1)?.key;
    this.publications = this.publications.map(({ offset, ...rest }) => rest);
  }

  #hold(publications) {
    this.publications = this.#limit > 0 ? publications.slice(-this.#limit) : []; // a slice from -0 on would be all of them
    return publications.length > this.publications.length;
  }
}
