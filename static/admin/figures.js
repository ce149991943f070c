// What the processes publish of themselves each second, as series: the rates are differences of totals, and a process that has been
// silent for SILENT_MS counts no more. A rate is measured by the clock of its process; seconds are those in which figures arrived here,
// for the clocks of two machines may differ by more than the processes are silent.

const SILENT_MS = 5000;
const LONGEST_STEP_MS = 5000; // a rate over a longer time would be drawn as if it were one second's
export const SAMPLES = 300; // five minutes
const RATES = ["connects", "publications", "deliveries", "bytes", "gaps", "recovered", "pages"];
const UNKNOWN = { rates: null, cpu: null };
const SUMS = ["clients", "users", "channels", "subs", "slow"];

export class Figures {
  nodes = new Map(); // uid → { last, at, rates, cpu }
  samples = []; // { second, clients, publications, …, p50, p99, lag, cpu }, one a second, oldest first
  changed = () => {};
  #second = 0;

  /** One publication of a process, and when it arrived, in unix ms: a late one counts for its second. One that came before is ignored. */
  take(figures, arrived) {
    const known = this.nodes.get(figures.node);
    const step = known ? figures.ms - known.last.ms : -Infinity; // a long one back: its clock was set
    if (step <= 0 && step > -SILENT_MS) return;
    const at = step > 0 ? Math.min(arrived, known.at + step) : arrived;
    const second = Math.floor(at / 1000);
    if (this.#second && second > this.#second) this.#sample(this.#second);
    this.#second = Math.max(this.#second, second);
    this.nodes.set(figures.node, { last: figures, at, ...(step > 0 ? stepped(known, figures) : UNKNOWN) });
    this.changed();
  }

  get now() {
    return this.samples.at(-1);
  }

  /** The second is over: what all processes did in it. */
  #sample(second) {
    for (const [uid, { at }] of this.nodes) if (at < second * 1000 - SILENT_MS) this.nodes.delete(uid);
    const nodes = [...this.nodes.values()];
    const sample = { second };
    for (const name of SUMS) sample[name] = sum(nodes.map(({ last }) => last[name]));
    const rated = nodes.filter(({ rates }) => rates);
    for (const name of RATES) sample[name] = rated.length ? sum(rated.map(({ rates }) => rates[name])) : null;
    sample.cpu = rated.length ? sum(rated.map(({ cpu }) => cpu)) : null;
    sample.p50 = most(nodes.map(({ last }) => last.latency_ms?.p50));
    sample.p99 = most(nodes.map(({ last }) => last.latency_ms?.p99));
    sample.lag = most(nodes.map(({ last }) => last.loop_lag_ms));
    this.samples.push(sample);
    if (this.samples.length > SAMPLES) this.samples.splice(0, this.samples.length - SAMPLES);
  }
}

/** Per second, since the process's publication before. Totals that went back are those of a new process. */
function stepped({ last }, figures) {
  const seconds = (figures.ms - last.ms) / 1000;
  const usable = seconds * 1000 <= LONGEST_STEP_MS && RATES.every((name) => figures[name] >= last[name]);
  if (!usable) return UNKNOWN;
  const rates = Object.fromEntries(RATES.map((name) => [name, (figures[name] - last[name]) / seconds]));
  return { rates, cpu: Math.max(0, figures.cpu - last.cpu) / seconds };
}

const sum = (values) => values.reduce((total, value) => total + (value ?? 0), 0);

/** The largest of those that are known; null if none is. */
function most(values) {
  const known = values.filter((value) => value != null);
  return known.length ? Math.max(...known) : null;
}

/**
 * When the figures of history, newest first, arrived: the newest when they say, each other as long before the next of its process
 * as that process says.
 */
export function arrivals(history, now) {
  const later = new Map(); // uid → [its ms, its arrival]
  let at = Math.min(now, Math.max(...history.map(({ ms }) => ms)));
  return history.map(({ node, ms }) => {
    const [nextMs, next] = later.get(node) ?? [ms, at];
    at = Math.min(at, next - (nextMs - ms));
    later.set(node, [ms, at]);
    return at;
  });
}
