// The posts of one channel, newest first: a page of them from the API, then all publications after that page's position.

import { since } from "./api.js";
import { Channels } from "./channels.js";
import { $, attempt, visit } from "./dom.js";
import { Post } from "./post.js";

const POSTS_MOST = 100; // in the page; when older ones are loaded, there are no more than this

export class Feed {
  #town;
  #channels;
  #channel = null;
  #loading = {}; // the latest load; the answer to an earlier one is ignored
  #posts = new Map(); // id → Post

  constructor(town, channels) {
    this.#town = town;
    this.#channels = new Channels(town, channels, (name) => this.open(name));
    $("post-form").addEventListener("submit", (event) => this.#send(event));
    $("post-text").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("post-form").requestSubmit();
    });
    $("posts-older").addEventListener("click", () => this.#older());
  }

  async open(channel) {
    this.#channels.choose(channel);
    if (this.#channel && this.#channel !== channel) this.#town.line.unfollow(`posts:${this.#channel}`);
    this.#channel = channel;
    await this.#load();
  }

  /** The first time, and after a gap: shows what the API answers, and follows the channel from that answer's position. */
  async #load(note = "") {
    const channel = this.#channel;
    const loading = (this.#loading = {});
    $("feed-note").textContent = "";
    await attempt($("post-fault"), async () => {
      const { posts, more, position } = await this.#town.api.posts(channel);
      if (loading !== this.#loading) return;
      this.#posts.clear();
      $("posts").replaceChildren();
      for (const post of posts) this.#put(post);
      $("posts-older").hidden = !more;
      $("feed-note").textContent = note;
      this.#showEmpty();
      const gap = () => this.#load("loaded anew: history no longer held what was missed");
      this.#town.line.follow(`posts:${channel}`, { since: since(position), publication: (event) => this.#take(event), gap });
    });
  }

  #take({ data, recovered }) {
    if (data.type === "post.created") this.#created(data.post, recovered);
    else if (data.type === "post.edited") this.#edited(data.post, recovered);
    else if (data.type === "post.deleted") this.remove(data.post.id);
    else if (data.type === "reaction") this.#posts.get(idOf(data.target))?.reactions.take(data, recovered);
  }

  /** A post that is shown already is at least as new as this publication about its creation. */
  #created(post, recovered) {
    if (this.#posts.has(post.id)) return;
    this.#put(post);
    this.#posts.get(post.id)?.mark(recovered);
    this.#town.arrived("feed");
  }

  /** An edit of a post that is not shown is ignored: whoever pages back to that post gets it with the edit. */
  #edited(post, recovered) {
    const shown = this.#posts.get(post.id);
    if (shown?.update(post)) shown.mark(recovered);
  }

  /** Inserts a post by its id, which grows with time. In a full page the oldest post is removed. */
  #put(post) {
    const known = this.#posts.get(post.id);
    if (known) return known.update(post);
    const made = new Post(this.#town, post);
    const next = [...$("posts").children].find((element) => Number(element.dataset.id) < post.id);
    $("posts").insertBefore(made.element, next ?? null);
    this.#posts.set(post.id, made);
    while (this.#posts.size > POSTS_MOST) this.#drop(Number($("posts").lastChild.dataset.id));
    this.#showEmpty();
  }

  #drop(id) {
    this.#posts.get(id)?.element.remove();
    this.#posts.delete(id);
  }

  remove(id) {
    const held = this.#posts.get(id)?.element.contains(document.activeElement);
    this.#drop(id);
    this.#showEmpty();
    if (held) $("post-text").focus({ preventScroll: true }); // the focus must not be lost with the post
  }

  #showEmpty() {
    $("posts-empty").hidden = this.#posts.size > 0;
  }

  async #older() {
    const { channel, last } = { channel: this.#channel, last: $("posts").lastChild };
    await attempt($("post-fault"), async () => {
      const { posts, more } = await this.#town.api.posts(channel, last.dataset.id);
      if (channel !== this.#channel) return;
      for (const post of posts) this.#put(post);
      const full = this.#posts.size >= POSTS_MOST;
      $("posts-older").hidden = !more || full;
      if (full) $("feed-note").textContent = `the newest ${POSTS_MOST}`;
      last.nextSibling?.focus();
    }, $("posts-older"));
  }

  async #send(event) {
    event.preventDefault();
    const area = $("post-text");
    const text = area.value.trim();
    if (!text) return area.focus();
    const channel = this.#channel;
    await attempt($("post-fault"), async () => {
      const post = await this.#town.api.createPost(channel, text);
      if (channel === this.#channel) this.#put(post);
      area.value = "";
    }, event.target.querySelector(".primary"));
    area.focus();
  }

  /** Shows a post, whichever channel it is in: there, the page of posts before the next id begins with it. */
  async reveal(id) {
    if (!this.#posts.has(id)) await this.open(await this.#channelOf(id));
    const post = this.#posts.get(id);
    if (!post) throw new Error("That post is further back than this page shows.");
    visit(post.element);
  }

  async #channelOf(id) {
    for (const { name } of this.#channels.all) {
      const { posts } = await this.#town.api.posts(name, id + 1);
      if (posts[0]?.id === id) return name;
    }
    throw new Error("That post is gone.");
  }
}

const idOf = (target) => Number(target.split(":")[1]);
