// How busy the simulated members are: one slider for everybody in town.

import { $, attempt, count } from "./dom.js";

const QUIET_MS = 150; // a slider that is dragged sends one request, when it rests

export function pace(api, perMinute) {
  let timer;
  const say = () => {
    const number = Number($("pace").value);
    const text = number ? `${count(number, "act")} a minute` : "everybody rests";
    $("pace-text").textContent = text;
    $("pace").setAttribute("aria-valuetext", text);
  };
  const ask = async () => {
    if (document.visibilityState === "hidden") return;
    const state = await api.state().catch(() => null); // without an answer the slider remains as it is
    if (state) $("pace").value = state.pace;
    say();
  };
  const set = () => attempt($("pace-fault"), () => api.setPace(Number($("pace").value)));
  $("pace").value = perMinute;
  say();
  document.addEventListener("visibilitychange", ask); // other members may have moved it meanwhile
  $("pace-form").addEventListener("submit", (event) => event.preventDefault());
  $("pace").addEventListener("input", () => {
    say();
    clearTimeout(timer);
    timer = setTimeout(set, QUIET_MS);
  });
}
