// The town's JSON API, as one member. A token that is refused is renewed once by entering again under the same name.

const BASE = new URL("api/", import.meta.url);

async function call(method, path, { body, token } = {}) {
  const headers = { ...(body && { "content-type": "application/json" }), ...(token && { authorization: `Bearer ${token}` }) };
  const answer = await fetch(new URL(path, BASE), { method, headers, body: body && JSON.stringify(body) }).catch(() => {
    throw new Error("The town does not answer. Is “gateway demo” still running?");
  });
  const data = await answer.json().catch(() => ({}));
  if (answer.ok) return data;
  throw Object.assign(new Error(data.error ?? `The town answered with status ${answer.status}.`), { status: answer.status });
}

export const members = async () => (await call("GET", "members")).members;

export class Api {
  #token;
  #unused; // a token that no line has begun with yet

  constructor(name) {
    this.name = name;
  }

  /** Returns the name as the town knows it. */
  async enter() {
    const { user, token } = await call("POST", "enter", { body: { name: this.name } });
    this.#token = this.#unused = token;
    return (this.name = user);
  }

  /** For the gateway, which asks when it needs one, and again when that one is no good any more. */
  async lineToken() {
    if (!this.#unused) await this.enter();
    const token = this.#unused;
    this.#unused = undefined;
    return token;
  }

  async #call(method, path, body) {
    try {
      return await call(method, path, { body, token: this.#token });
    } catch (error) {
      if (error.status !== 401) throw error;
      await this.enter();
      return call(method, path, { body, token: this.#token });
    }
  }

  state = () => this.#call("GET", "state");
  posts = (channel, before) => this.#call("GET", `posts?${new URLSearchParams({ channel, ...(before && { before }) })}`);
  reviews = (subject) => this.#call("GET", `reviews?${new URLSearchParams({ subject })}`);
  history = (review) => this.#call("GET", `reviews/${review}/history`);
  createChannel = (name, title) => this.#call("POST", "channels", { name, title });
  createPost = (channel, text) => this.#call("POST", "posts", { channel, text });
  editPost = (id, text) => this.#call("PATCH", `posts/${id}`, { text });
  deletePost = (id) => this.#call("DELETE", `posts/${id}`);
  createReview = (subject, rating, text) => this.#call("POST", "reviews", { subject, rating, text });
  respond = (review, text) => this.#call("POST", `reviews/${review}/responses`, { text });
  react = (target, reaction) => this.#call("PUT", "reactions", { target, reaction });
  setPace = (perMinute) => this.#call("POST", "pace", { per_minute: perMinute });
}

/** The API's positions are text; the gateway's are two values. */
export function since(position) {
  if (!position) return undefined;
  const colon = position.lastIndexOf(":");
  return { epoch: position.slice(0, colon), offset: Number(position.slice(colon + 1)) };
}
