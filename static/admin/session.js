// The session of this page: logging in and out, and calls of the console's methods. The cookie is the browser's; no script reads it.

const JSON_TYPE = { "content-type": "application/json" };

/** A call that was not carried out. `away`: it may be repeated, for the gateway or Valkey is not there; `retrySeconds` of a rate limit. */
export class Refusal extends Error {
  constructor(message, { status = 0, code = 0, away = false, retrySeconds = 0 } = {}) {
    super(message);
    Object.assign(this, { status, code, away, retrySeconds });
  }
}

/** Its end is the gateway's to know, for the clock of this machine may be hours off: the first call after it is refused. */
export class Session {
  over = () => {}; // called once, when it ended other than by close()
  #csrf;

  constructor({ role, csrf }) {
    this.role = role;
    this.#csrf = csrf;
  }

  /** The session that the browser's cookie is of, or null. Raises a Refusal while the gateway is away. */
  static async found() {
    const answer = await request("session", { method: "GET" });
    return answer.status === 401 ? null : new Session(await body(answer));
  }

  static async open(key) {
    return new Session(await body(await request("session", { method: "POST", headers: JSON_TYPE, body: JSON.stringify({ key }) })));
  }

  get mayWrite() {
    return this.role === "write";
  }

  /** Logs out: the gateway ends the session in every process. Returns why that takes longer in some, or "". */
  async close() {
    const { warning = "" } = await body(await request("session", { method: "DELETE", headers: this.#headers }));
    this.over = () => {};
    return warning;
  }

  /** The result of one method. Raises a Refusal, or an AbortError where `signal` ended it. */
  async call(method, asked = {}, signal) {
    const options = { method: "POST", headers: { ...JSON_TYPE, ...this.#headers }, body: JSON.stringify(asked), signal };
    const answer = await request(`api/${method}`, options);
    if (answer.status === 401) this.#end();
    return (await body(answer)).result;
  }

  get #headers() {
    return { "x-gateway-csrf": this.#csrf };
  }

  #end() {
    const { over } = this;
    this.over = () => {};
    over();
  }
}

async function request(path, options) {
  try {
    return await fetch(path, { ...options, credentials: "same-origin", cache: "no-store", redirect: "error" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("The gateway does not answer.", { away: true });
  }
}

/** The JSON of an answer. An error is a sentence, or an object with a code and a sentence. */
async function body(answer) {
  const { status } = answer;
  const read = await answer.json().catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new Refusal(`The answer was not the gateway’s (status ${status}).`, { status, away: status >= 500 });
  });
  if (answer.ok && !read.error) return read;
  const { code = 0, message = read.error ?? `status ${status}`, temporary = false, hint } = Object(read.error);
  const retrySeconds = Number(answer.headers.get("retry-after")) || 0;
  const text = typeof read.error === "string" ? read.error : (hint ?? message);
  throw new Refusal(sentence(String(text)), { status, code, retrySeconds, away: temporary || status >= 500 || code === 100 });
}

/** With a capital letter and a full stop. */
export function sentence(text) {
  const trimmed = text.trim();
  return `${trimmed.charAt(0).toUpperCase()}${trimmed.slice(1)}${/[.!?]$/.test(trimmed) ? "" : "."}`;
}
