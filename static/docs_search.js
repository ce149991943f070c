// Finds sections of the documentation. A section counts for the words of the question that it has, rare words for more than common
// ones, and words in a title, a heading or the list of what readers ask for more than those of the text. A word of a long section counts
// for less than one of a short section.

const COMMON = new Set(
  "a again an and are as at be by can could do does for from get happen how i if in into is it its make many me mean meaning much my need of on one only or our put see should so sure that the their them there they this to under use used using want was we what when where which why will with without would you your".split(" "),
);
const TITLE = 6;
const HEADING = 4;
const ASKED = 5; // of what readers ask for
const TERM = 3; // of what a section's tables explain
const LENGTH = 0.6; // how much the length of a section takes off its words
const EXCERPT = 160; // characters

/** `sections` as of search.json: the best rows first, each a section with `excerpt`, [{ text, hit }]. */
export function search(sections, asked, most) {
  const index = indexOf(sections);
  const words = questionWords(asked);
  const scores = new Map();
  for (const [at, word] of words.entries()) {
    const unfinished = at === words.length - 1 && !/\s$/.test(asked);
    const hits = index.find(word, unfinished);
    const rarity = Math.log(1 + sections.length / (1 + hits.size));
    for (const [section, weight] of hits) {
      const score = scores.get(section) ?? { sum: 0, words: 0 };
      score.sum += rarity * (weight / (weight + 2));
      score.words += 1;
      scores.set(section, score);
    }
  }
  return [...scores]
    .map(([section, { sum, words: had }]) => ({ section, score: sum * (had / words.length) }))
    .sort((one, other) => other.score - one.score || one.section - other.section)
    .slice(0, most)
    .map(({ section }) => ({ ...sections[section], excerpt: excerpt(sections[section].text, words) }));
}

/** The words of a text, without their endings; of a name such as history_size the whole and its parts. */
export function wordsOf(text) {
  const names = text.toLowerCase().match(/[\p{L}\p{N}_]+/gu) ?? [];
  return names.flatMap((name) => (name.includes("_") ? [name, ...name.split("_").filter(Boolean).map(stem)] : [stem(name)]));
}

function questionWords(asked) {
  const words = [...new Set(wordsOf(asked))];
  const telling = words.filter((word) => !COMMON_STEMS.has(word));
  return telling.length ? telling : words;
}

function stem(word) {
  if (word.length < 5) return word.length > 3 && word.endsWith("s") && !word.endsWith("ss") ? word.slice(0, -1) : word;
  return word.replace(/(ies|ied)$/, "y").replace(/(?:ations?|ators?|ating|ated|ates?)$/, "").replace(/(?:ings?|ed|es|s|e|ers?)$/, "");
}

const COMMON_STEMS = new Set([...COMMON].map(stem));

// The index, made once for each list of sections.

let known = null;

function indexOf(sections) {
  if (known?.sections !== sections) known = { sections, index: new Index(sections) };
  return known.index;
}

class Index {
  #sections = new Map(); // word → Map of section's number → weight

  constructor(sections) {
    const average = sections.reduce((sum, { text }) => sum + text.length, 0) / sections.length;
    for (const [number, { title, heading, terms, asked, text }] of sections.entries()) {
      this.#add(number, title, TITLE);
      if (heading !== title) this.#add(number, heading, HEADING);
      this.#add(number, asked, ASKED);
      this.#add(number, terms, TERM);
      this.#add(number, text, 1 / (1 - LENGTH + (LENGTH * text.length) / average));
    }
  }

  #add(number, text, weight) {
    for (const word of wordsOf(text)) {
      const entry = this.#sections.get(word) ?? this.#sections.set(word, new Map()).get(word);
      entry.set(number, (entry.get(number) ?? 0) + weight);
    }
  }

  /** Section → weight of a word; of an unfinished one, of all words that begin with it. */
  find(word, unfinished) {
    const exact = this.#sections.get(word);
    if (!unfinished) return exact ?? new Map();
    const hits = new Map(exact);
    for (const [other, entry] of this.#sections) {
      if (other !== word && other.startsWith(word)) {
        for (const [number, weight] of entry) hits.set(number, Math.max(hits.get(number) ?? 0, weight / 2));
      }
    }
    return hits;
  }
}

/** A piece of the text around its first words that were asked for. */
function excerpt(text, words) {
  const isHit = (piece) => wordsOf(piece).some((word) => words.some((asked) => word.startsWith(asked)));
  const pieces = text.split(/([\p{L}\p{N}_]+)/u);
  const first = Math.max(pieces.findIndex(isHit), 0);
  const chosen = [];
  let length = 0;
  for (let at = Math.max(first - 12, 0); at < pieces.length && length < EXCERPT; at += 1) {
    chosen.push({ text: pieces[at], hit: isHit(pieces[at]) });
    length += pieces[at].length;
  }
  return first > 12 ? [{ text: "… ", hit: false }, ...chosen] : chosen;
}
