// The town's JSON API, called as one member. When a token is refused, the member enters again under the same name, once, for a new one.

const BASE = new URL("api/", import.meta.url);

async function call(method, path, { body, token } = {}) {
  const headers = { ...(body && { "content-type": "application/json" }), ...(token && { authorization: `Bearer ${token}` }) };
  const answer = await fetch(new URL(path, BASE), { method, headers, body: body && JSON.stringify(body) }).catch(() => {
    throw new Error("The town does not answer. Is “gateway demo” still running?");
  });
  if (answer.ok && answer.headers.get("content-type") === "application/pdf") return answer.blob();
  const data = await answer.json().catch(() => ({}));
  if (answer.ok) return data;
  throw Object.assign(new Error(data.error ?? `The town answered with status ${answer.status}.`), { status: answer.status });
}

export const members = async () => (await call("GET", "members")).members;

export class Api {
  #token;
  #unused; // a token with which no connection has been opened yet

  constructor(name) {
    this.name = name;
  }

  /** Returns the name as the town knows it. */
  async enter() {
    const { user, token } = await call("POST", "enter", { body: { name: this.name } });
    this.#token = this.#unused = token;
    return (this.name = user);
  }

  /** The gateway's token function: it is called for the first token, and again whenever that one is no longer valid. */
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
  work = () => this.#call("GET", "work");
  makeReport = (month) => this.#call("POST", "work/reports", { month });
  report = (month) => this.#call("GET", `work/reports/${month}`);
  placeOrder = (item) => this.#call("POST", "work/orders", { item });
  cancelOrder = (id) => this.#call("POST", `work/orders/${id}/cancel`);
  startJobs = (kind) => this.#call("POST", "work/jobs", { kind });
  cancelJob = (id) => this.#call("POST", `work/jobs/${encodeURIComponent(id)}/cancel`);
  resendJob = (id) => this.#call("POST", `work/jobs/${encodeURIComponent(id)}/resend`);
  setPace = (perMinute) => this.#call("POST", "pace", { per_minute: perMinute });
}

/** The API writes a position as text, which becomes the two values that the gateway takes. */
export function since(position) {
  if (!position) return undefined;
  const colon = position.lastIndexOf(":");
  return { epoch: position.slice(0, colon), offset: Number(position.slice(colon + 1)) };
}
