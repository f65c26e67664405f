"use strict";
// Shows one step of the story at a time. All that is said stands in the page already, as HTML or as
// data; every text that is written here is written as text.
(() => {
  const $ = (id) => document.getElementById(id);
  const { boxes, edges, steps, colour, unasked } = JSON.parse($("data").textContent);
  const box = boxes.map((_, i) => $(`n${i}`));
  const line = edges.map((_, i) => $(`e${i}`));
  const gradients = box.map((g) => [...g.querySelectorAll(`text[fill="${colour}"]`)]);
  const rows = new Map();
  let at = 0, timer = 0, asked = null;

  const element = (name, text = "", attributes = {}) => {
    const made = document.createElement(name);
    made.textContent = text;
    for (const key in attributes) made.setAttribute(key, attributes[key]);
    return made;
  };

  // --- one step ---------------------------------------------------------------------------------

  const gradientsAt = (k) => {
    const sums = new Map();
    for (const step of steps.slice(0, k + 1)) {
      for (const [i, count, text, full, lines] of step.sums) sums.set(i, { count, text, full, lines });
    }
    return sums;
  };

  const show = (k) => {
    at = Math.max(0, Math.min(steps.length - 1, k));
    const step = steps[at], sums = gradientsAt(at);
    const pending = new Set(steps.slice(at + 1).filter((s) => s.phase === "forward").map((s) => s.visited));
    box.forEach((g, i) => {
      g.classList.toggle("visited", i === step.visited);
      g.classList.toggle("pending", pending.has(i));
      gradients[i].forEach((text, n) => {
        text.textContent = sums.has(i) ? sums.get(i).lines[n] : n ? "" : unasked;
      });
    });
    line.forEach((g, i) => {
      g.classList.toggle("lit", step.edges.includes(i));
      g.classList.toggle("pending", pending.has(edges[i][1]));
    });
    say(step);
    fill(step, sums, pending);
    for (const row of $("all").querySelectorAll("tr.visited")) row.classList.remove("visited");
    $(`s${at}`).classList.add("visited");
    $("seek").value = at;
    $("seek").setAttribute("aria-valuetext", `step ${at} of ${steps.length - 1}, ${step.phase}`);
    $("count").textContent = `${at} of ${steps.length - 1}`;
    // Not `disabled`: that would take the focus from whoever has come here by this button.
    for (const id of ["first", "back"]) $(id).setAttribute("aria-disabled", at === 0);
    for (const id of ["last", "next"]) $(id).setAttribute("aria-disabled", at === steps.length - 1);
    if (step.visited !== null) reveal(box[step.visited], $("picture"));
  };

  // The step's equations, as they stand in the table of all steps.
  const say = (step) => {
    const name = step.visited === null ? "" : boxes[step.visited].name;
    const words = { start: "start", end: "end", forward: "forward: ", backward: "backward: " };
    const phase = element("p", words[step.phase], { class: "phase" });
    if (name) phase.append(element("bdi", name), ` (${boxes[step.visited].what})`);
    const lines = $(`s${at}`).lastElementChild.cloneNode(true).childNodes;
    $("now").replaceChildren(phase, ...lines);
  };

  const fill = (step, sums, pending) => {
    const changed = new Set(step.sums.map(([i]) => i));
    for (const [i, row] of rows) {
      const [, data, grad, uses] = row.cells, sum = sums.get(i);
      data.textContent = pending.has(i) ? "" : boxes[i].data[0];
      data.title = pending.has(i) ? "" : boxes[i].data[1];
      grad.textContent = sum ? sum.text : unasked;
      grad.title = sum ? sum.full : "";
      uses.textContent = boxes[i].uses ? `${sum ? sum.count : 0} of ${boxes[i].uses}` : "";
      row.classList.toggle("visited", i === step.visited);
      row.classList.toggle("changed", changed.has(i));
    }
    if (rows.has(step.visited)) reveal(rows.get(step.visited), $("sofar"));
  };

  // Scroll a part of the page, and never the page.
  const reveal = (what, within) => {
    const a = what.getBoundingClientRect(), b = within.getBoundingClientRect(), room = 40;
    if (a.left < b.left || a.right > b.right) within.scrollLeft += a.left - b.left - room;
    if (a.top < b.top + room || a.bottom > b.bottom) within.scrollTop += a.top - b.top - 2 * room;
  };

  // --- one node ---------------------------------------------------------------------------------

  const ask = (i) => {
    asked = i === asked ? null : i;
    box.forEach((g) => g.classList.remove("asked", "user"));
    box.forEach((g, k) => { if (boxes[k].named) g.setAttribute("aria-pressed", k === asked); });
    line.forEach((g, e) => g.classList.toggle("used", asked !== null && edges[e][0] === asked));
    if (asked === null) {
      $("asked").replaceChildren(hint);
      return;
    }
    box[asked].classList.add("asked");
    for (const [source, target] of edges) if (source === asked) box[target].classList.add("user");
    const section = $(`a${asked}`).cloneNode(true), close = element("button", "close (Esc)");
    section.removeAttribute("id");
    close.addEventListener("click", () => dismiss());
    const header = element("header");
    header.append(section.firstElementChild, close);
    $("asked").replaceChildren(header, ...section.childNodes);
    $("asked").scrollTop = 0;
  };

  const dismiss = () => {
    if (asked === null) return;
    const g = box[asked], inside = $("asked").contains(document.activeElement);
    ask(asked);
    if (inside) g.focus();
  };

  // --- playing ----------------------------------------------------------------------------------

  const pause = () => {
    clearTimeout(timer);
    timer = 0;
    $("play").firstChild.data = "▶ ";
    $("play").lastChild.textContent = "play";
  };

  const tick = () => {
    if (at === steps.length - 1) { pause(); return; }
    show(at + 1);
    timer = setTimeout(tick, 1600 / $("speed").value);
  };

  const toggle = () => {
    if (timer) { pause(); return; }
    if (at === steps.length - 1) show(0);
    $("play").firstChild.data = "‖ ";
    $("play").lastChild.textContent = "pause";
    timer = setTimeout(tick, 600 / $("speed").value);
  };

  const go = (k) => { pause(); show(k); };
  const keys = {
    ArrowRight: () => go(at + 1),
    ArrowLeft: () => go(at - 1),
    Home: () => go(0),
    End: () => go(steps.length - 1),
    " ": toggle,
    Escape: dismiss,
  };

  // --- the page ---------------------------------------------------------------------------------

  const hint = $("hint");
  document.body.classList.add("on");
  for (const id of ["controls", "now", "side"]) $(id).hidden = false;
  for (const id of ["all", "sums"]) $(id).open = false;
  $("seek").max = steps.length - 1;
  document.querySelector("#picture svg").setAttribute("role", "group");

  boxes.forEach((b, i) => {
    if (!b.named) return;
    const g = box[i], a = g.getBBox();
    const halo = document.createElementNS(g.namespaceURI, "rect");
    const place = { x: a.x - 4, y: a.y - 4, width: a.width + 8, height: a.height + 8, rx: 8, class: "halo" };
    for (const key in place) halo.setAttribute(key, place[key]);
    g.append(halo);
    const said = { role: "button", tabindex: 0, "aria-pressed": false };
    for (const key in said) g.setAttribute(key, said[key]);
    g.setAttribute("aria-label", `${b.name}, ${b.what}, data ${b.data[0]}`);
    g.addEventListener("click", () => ask(i));
    g.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      event.stopPropagation();
      ask(i);
    });
  });
  // In the order of the sweep, as far as the program's order says it: the last made comes first.
  for (let i = boxes.length - 1; i >= 0; i--) {
    if (!boxes[i].swept) continue;
    const row = element("tr", "", { "data-box": i }), name = element("th", "", { scope: "row" });
    name.append(element("bdi", boxes[i].name));
    row.append(name, element("td"), element("td", "", { class: "num" }), element("td"));
    rows.set(i, row);
    $("sofar").querySelector("tbody").append(row);
  }

  $("first").addEventListener("click", keys.Home);
  $("back").addEventListener("click", keys.ArrowLeft);
  $("next").addEventListener("click", keys.ArrowRight);
  $("last").addEventListener("click", keys.End);
  $("play").addEventListener("click", toggle);
  $("seek").addEventListener("input", () => go(Number($("seek").value)));
  $("fit").addEventListener("click", () => {
    $("fit").setAttribute("aria-pressed", document.body.classList.toggle("fit"));
  });
  document.addEventListener("keydown", (event) => {
    const on = event.target.tagName, key = keys[event.key];
    if (!key || event.ctrlKey || event.altKey || event.metaKey || on === "SELECT") return;
    if (event.key === " " && (on === "BUTTON" || on === "SUMMARY")) return;
    if (on === "INPUT" && event.key !== " " && event.key !== "Escape") return;
    event.preventDefault();
    key();
  });
  show(0);
})();
