// One post in the feed. Applying a publication twice changes nothing.

import { attempt, avatar, h, icon, mark } from "./dom.js";
import { Reactions } from "./reactions.js";
import { time } from "./time.js";

export class Post {
  #town;
  #text = h("p", { class: "text" });
  #fault = h("p", { class: "fault", role: "alert" });
  #edited = h("span", { class: "soft", hidden: true }, "· edited");
  #head;
  #tools = h("div", { class: "tools" });
  #slip = null; // the form or question that is shown while the post is edited or about to be deleted

  constructor(town, post) {
    this.#town = town;
    this.id = post.id;
    this.reactions = new Reactions(town, `post:${post.id}`, this.#fault);
    this.#head = h("div", { class: "card-head" }, avatar(post.author), h("strong", {}, post.author), time(post.created_at), this.#edited);
    if (post.author === town.me) this.#tools.append(this.#tool("edit", () => this.#edit()), this.#tool("delete", () => this.#ask()));
    const attributes = { class: "card", "data-testid": "post", "data-id": post.id, tabindex: "-1" };
    const foot = h("div", { class: "card-foot" }, this.reactions.element, this.#tools);
    this.element = h("li", attributes, this.#head, this.#text, foot, this.#fault);
    this.update(post);
  }

  #tool(name, act) {
    const attributes = { type: "button", class: "quiet square", title: name, "data-testid": `post-${name}`, "aria-label": `${name} this post` };
    return h("button", { ...attributes, on: { click: act } }, icon(name));
  }

  /** Returns whether its text changed. */
  update(post) {
    const edited = this.#text.textContent !== post.text;
    this.post = post;
    this.#text.textContent = post.text;
    this.#edited.hidden = !post.edited_at;
    if (post.edited_at) this.#edited.title = new Date(post.edited_at).toLocaleString();
    this.reactions.show(post.reactions, post.mine);
    return edited;
  }

  mark(recovered) {
    mark(this.element, this.#head, recovered);
  }

  #replace(slip, focus) {
    this.#slip?.remove();
    this.#slip = slip;
    this.#fault.textContent = "";
    this.#text.hidden = Boolean(slip?.matches("form"));
    this.#tools.hidden = Boolean(slip);
    if (slip) this.#text.after(slip);
    focus?.focus();
  }

  /** Shows the post again, and moves the focus to the button that was pressed. */
  #restore(name) {
    this.#replace(null, this.#tools.querySelector(`[data-testid="post-${name}"]`));
  }

  #edit() {
    const label = `Your post, edited`;
    const area = h("textarea", { rows: "3", maxlength: "2000", "aria-label": label, "data-testid": "post-edit-text" });
    area.value = this.post.text;
    const save = h("button", { class: "primary", "data-testid": "post-save" }, "Save");
    const cancel = h("button", { type: "button", class: "quiet", on: { click: () => this.#restore("edit") } }, "Cancel");
    const keydown = (event) => {
      if (event.key === "Escape") this.#restore("edit");
      else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    };
    const submit = async (event) => {
      event.preventDefault();
      const done = await attempt(this.#fault, async () => this.update(await this.#town.api.editPost(this.id, area.value.trim())), save);
      if (done) this.#restore("edit");
    };
    const form = h("form", { class: "inset", on: { keydown, submit } }, area, h("div", { class: "row end" }, cancel, save));
    this.#replace(form, area);
  }

  #ask() {
    const remove = async () => {
      await attempt(this.#fault, async () => {
        await this.#town.api.deletePost(this.id);
        this.#town.feed.remove(this.id);
      });
    };
    const yes = h("button", { type: "button", class: "danger", "data-testid": "post-delete-yes", on: { click: remove } }, "Delete it");
    const no = h("button", { type: "button", class: "quiet", on: { click: () => this.#restore("delete") } }, "Keep it");
    const keydown = (event) => event.key === "Escape" && this.#restore("delete");
    const question = h("p", {}, "Delete this post for everybody?");
    this.#replace(h("div", { class: "inset row", role: "group", "aria-label": "Delete", on: { keydown } }, question, no, yes), no);
  }
}
