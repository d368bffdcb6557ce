"use strict";
const find = (selector, inside = document) => inside.querySelector(selector);
const failed = reason => { find("#error").textContent = `The page could not be drawn: ${reason}`; };
window.addEventListener("error", event => failed(event.message));

// ---- What there is, and how it is written ----
const page = JSON.parse(find("#data").textContent);
const models = page.models.map((model, index) => ({...model, index, key: index}));
const isNumber = Number.isFinite, isKnown = value => value !== null && value !== undefined;
const several = page.trainings.length > 1;
const paid = models.filter(model => model.paid);
/** A search pays for its first models, all of them: readouts of another order were no search's. */
const searched = paid.length > 0 && paid.length < models.length &&
  models.filter(model => isNumber(model.alpha)).slice(0, Math.min(2 * page.topK, paid.length))
    .every(model => model.paid);
const readOut = paid.filter(model => isNumber(model.accuracy));
const height = readOut.length ? "accuracy" : "rankme"; // what α is drawn against
const drawn = models.filter(model => isNumber(model.alpha));
const steps = [...new Set(models.filter(m => m.spectrum.length > 1).map(m => m.step))]
  .sort((a, b) => a - b);
const narrow = matchMedia("(max-width: 600px)");
/** What all charts share: models under the pointer and picked, their trainings, and sliders. */
const state = {here: -1, hereT: -1, picked: -1, pickedT: -1, step: steps.at(-1) ?? 0,
  arrived: models.length};

const FORMATS = {
  text: value => value,
  fixed: value => value.toFixed(3),
  hundredths: value => (Math.round(value * 100) / 100 + 0).toFixed(2),
  percent: value => `${value.toFixed(1)} %`,
  count: value => value.toLocaleString("en"),
  short: value => value.toLocaleString("en", {maximumSignificantDigits: 4}),
};
function show(format, value) {
  if (!isKnown(value)) return "–";
  return typeof value === "number" ? FORMATS[format](value).replace("-", "−") : value;
}
function interval([low, high], format = "fixed") {
  if (low === null && high === null) return "any α";
  const [from, to] = [low, high].map(alpha => show(format, alpha));
  return high === null ? `α ≥ ${from}` : low === null ? `α ≤ ${to}` : `${from} – ${to}`;
}
function numbers(model) {
  const shown = page.columns.filter(([key]) => key.startsWith("param ") ||
    ["accuracy", "alpha", "r2", "score rankme"].includes(key));
  return shown.map(([key, heading, format]) => `${heading} ${show(format, model[key])}`).join(", ");
}
function best(some) { // the first of equals, as the search counts
  return some.filter(model => isNumber(model.accuracy))
    .reduce((top, model) => top && top.accuracy >= model.accuracy ? top : model, null);
}
function range(values, pad = 0.06) {
  const known = values.filter(isNumber), low = Math.min(...known), high = Math.max(...known);
  const room = (high - low) * pad || Math.abs(high) * 0.1 || 1;
  return [low - room, high + room];
}
const spansDecades = values => Math.min(...values) > 0 &&
  Math.max(...values) > 20 * Math.min(...values);
const natural = (a, b) => typeof a === "string" || typeof b === "string"
  ? String(a).localeCompare(String(b), "en", {numeric: true}) : a - b;
function element(tag, properties = {}, ...inside) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...inside);
  return node;
}
/** A text that breaks behind the marks that part a name, and not within its words. */
function soft(text) {
  return text.split(/(?<=[/,])/).flatMap(part => [part, document.createElement("wbr")]);
}
function save(name, text, type) {
  element("a", {href: URL.createObjectURL(new Blob([text], {type})), download: name}).click();
}

// ---- Colours: a word of the style sheet for each model, so that light and dark are its affair ----
const RAMP = 7;
let colourBy = page.params.length ? `param ${page.params[0]}` : several ? height : "step";
function paint() {
  const known = models.map(model => model[colourBy]).filter(isKnown);
  const distinct = [...new Set(known)].sort(natural), legend = find("#legend");
  const words = distinct.some(value => typeof value === "string");
  const ramp = i => `var(--r${i})`, format = page.columns.find(([key]) => key === colourBy)?.[2];
  const swatch = colour => {
    const box = element("i");
    box.style.background = colour;
    return box;
  };
  let colour;
  if (words || distinct.length <= RAMP) { // few values: each has its own
    const gap = (RAMP - 1) / Math.max(1, distinct.length - 1);
    colour = value => words ? `var(--c${distinct.indexOf(value) % RAMP})`
      : ramp(Math.round(gap * distinct.indexOf(value)));
    legend.replaceChildren(...distinct.map(value =>
      element("span", {}, swatch(colour(value)), show(format ?? "short", value))));
  } else {
    const scale = spansDecades(distinct) ? Math.log : value => value;
    const low = scale(distinct[0]), high = scale(distinct.at(-1));
    colour = value => ramp(Math.round((RAMP - 1) * (scale(value) - low) / (high - low)));
    const strip = [...Array(RAMP).keys()].map(i => swatch(ramp(i)));
    const ends = [distinct[0], distinct.at(-1)].map(value => show(format ?? "short", value));
    legend.replaceChildren(element("span", {className: "ramp"}, `${ends[0]} `, ...strip,
      ` ${ends[1]}`));
  }
  for (const model of models) {
    model.colour = isKnown(model[colourBy]) ? colour(model[colourBy]) : "var(--quiet)";
  }
}

// ---- Charts ----
const config = {
  background: null, font: "system-ui, sans-serif", aria: false,
  view: {stroke: "var(--line)"},
  title: {anchor: "start", frame: "group", color: "var(--quiet)", fontSize: 12, fontWeight: "normal",
    offset: 6},
  axis: {labelColor: "var(--quiet)", titleColor: "var(--quiet)", labelFontSize: 12,
    titleFontSize: 12, titleFontWeight: "normal", gridColor: "var(--line)",
    domainColor: "var(--line)", tickColor: "var(--line)", labelOverlap: "greedy", labelFlush: false},
  axisY: {minExtent: 44, titlePadding: 4},
};
const views = {};
function number(field, title, domain, axis = {}, scale = {}) {
  return {field, type: "quantitative", title, scale: {domain, nice: false, ...scale}, axis};
}
const DECADES = [...Array(30).keys()].map(i => 10 ** (i - 18));
const own = {field: "colour", type: "nominal", scale: null, legend: null};
const slim = some => some.map(({spectrum, line, interval, ...model}) => model);
const HERE = "datum.key === here || datum.key === picked";
/** A ring around the models that are picked or under the pointer, a diamond at the choice. */
const marked = (values, encoding) => [
  {name: "choice", data: {values: values.filter(value => value.role === "choice")}, encoding,
    mark: {type: "point", shape: "diamond", size: 190, strokeWidth: 2, stroke: "var(--ink)",
      fill: null}},
  {name: "ring", data: {values}, transform: [{filter: HERE}], encoding,
    mark: {type: "point", size: 150, strokeWidth: 2.5, stroke: "var(--mark)", fill: null}},
];
function targetAt(channel, axis) {
  const [low, high] = page.target, wide = low < high;
  return {
    name: "target", data: {values: [{low, high}]},
    mark: wide ? {type: "rect", color: "var(--ink)", opacity: 0.08, clip: true}
      : {type: "rule", color: "var(--ink)", strokeDash: [2, 4], clip: true},
    encoding: {[channel]: {...axis, field: "low"},
      ...(wide && {[`${channel}2`]: {field: "high"}})},
  };
}
/** A place for a chart, with its caption, its button and what it tells of a point. */
function figure(parent, id, title, ...text) {
  const box = element("div", {id, className: "chart", tabIndex: 0});
  const tip = element("div", {className: "tip"});
  box.setAttribute("role", "application");
  tip.setAttribute("role", "status");
  const button = element("button", {type: "button", className: "save", textContent: "SVG"});
  button.setAttribute("aria-label", `Save as SVG: ${title}`);
  button.addEventListener("click", () => save(`${id}.svg`, drawing(box), "image/svg+xml"));
  find(parent).append(element("figure", {},
    element("figcaption", {}, element("b", {}, title), ...text), button, box, tip));
}
function key(mark, text) {
  return element("span", {className: "key", textContent: `${mark} ${text}`});
}
const KEYS = () => [key("┄", "target"),
  ...(models.some(model => model.role === "choice") ? [key("◇", "the verdict’s choice")] : [])];
/** The picture of a chart as a file of its own, which has no style sheet to look colours up in. */
function drawing(box) {
  const svg = find("svg", box), copy = svg.cloneNode(true);
  const shown = [svg, ...svg.querySelectorAll("*")];
  [copy, ...copy.querySelectorAll("*")].forEach((node, i) => {
    for (const name of ["fill", "stroke"]) {
      if (node.getAttribute(name)?.startsWith("var(")) {
        node.setAttribute(name, getComputedStyle(shown[i])[name]);
      }
    }
  });
  const [, , width, tall] = copy.getAttribute("viewBox").split(" ").map(Number);
  copy.setAttribute("viewBox", `0 0 ${width} ${tall + 22}`);
  copy.setAttribute("height", tall + 22);
  const line = copy.appendChild(document.createElementNS(svg.namespaceURI, "text"));
  const write = (text, fill) => {
    const part = line.appendChild(document.createElementNS(svg.namespaceURI, "tspan"));
    part.textContent = text;
    part.setAttribute("fill", fill);
  };
  const quiet = getComputedStyle(find("#legend span") ?? box).color;
  for (const [name, value] of Object.entries({x: 8, y: tall + 14, "font-size": 12,
    "font-family": config.font})) line.setAttribute(name, value);
  write(`${find("b", box.parentNode).textContent}, by ` +
    `${find("#colour").selectedOptions[0].text}: `, quiet);
  for (const entry of find("#legend").children) {
    for (const node of entry.childNodes) {
      if (node.nodeName === "I") write("■", getComputedStyle(node).backgroundColor);
      else write(` ${node.textContent.trim()} `, quiet);
    }
  }
  copy.style.background = getComputedStyle(find("section")).backgroundColor;
  return new XMLSerializer().serializeToString(copy);
}
/** Draw a chart where there is a place for it; points are what can be looked at in it. */
async function draw(id, spec, points, label) {
  const box = document.getElementById(id);
  if (!box) return;
  const {view} = await vegaEmbed(box, {
    width: "container", autosize: {type: "fit-x", contains: "padding"},
    params: Object.entries(state).map(([name, value]) => ({name, value})), ...spec,
  }, {ast: true, actions: false, renderer: "svg", tooltip: false, defaultStyle: false, config});
  views[id]?.finalize();
  views[id] = view;
  box.setAttribute("aria-label", `${label}. Arrow keys walk through it, Enter picks a model; the ` +
    "table below holds the same numbers.");
  explore(box, view, points);
}
async function tell(changes) {
  Object.assign(state, changes);
  await Promise.all(Object.values(views).map(view => {
    for (const [name, value] of Object.entries(changes)) view.signal(name, value);
    return view.runAsync();
  }));
}
/** Let mouse, finger and arrow keys walk over points {x, y, key, training, text} of a chart. */
function explore(box, view, points) {
  const tip = find(".tip", box.parentNode);
  const place = ({x, y}) => [["x", x], ["y", y]].map(([name, value], i) =>
    view.scale(name)(value) + view.origin()[i]);
  const at = point => {
    tip.textContent = point?.text ?? "";
    tell({here: point?.key ?? -1, hereT: point?.training ?? -1});
    if (!point) return;
    const [x, y] = place(point), room = box.parentNode.clientWidth - tip.offsetWidth;
    const above = y > box.clientHeight / 2 ? -14 - tip.offsetHeight : 14;
    tip.style.left = `${Math.max(0, Math.min(room, x - tip.offsetWidth / 2))}px`;
    tip.style.top = `${box.offsetTop + y + above}px`;
  };
  const nearest = event => {
    const {left, top} = box.getBoundingClientRect();
    let found = null, least = 30 ** 2;
    for (const point of points()) {
      const [x, y] = place(point);
      const far = (x - event.clientX + left) ** 2 + (y - event.clientY + top) ** 2;
      if (far < least) [found, least] = [point, far];
    }
    return found;
  };
  let now = null;
  const move = point => {
    if (point?.key !== now?.key) at(point);
    now = point;
  };
  box.onpointermove = event => move(nearest(event));
  box.onpointerleave = box.onblur = () => move(null);
  box.onclick = event => pick(nearest(event));
  box.onkeydown = event => {
    const by = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
    if (by) {
      const once = [...new Map(points().map(point => [point.key, point])).values()]
        .map(point => [place(point), point]).sort(([a], [b]) => a[0] - b[0] || b[1] - a[1])
        .map(([, point]) => point);
      const from = once.findIndex(point => point.key === now?.key);
      move(once[(Math.max(from, by > 0 ? -1 : 0) + by + once.length) % once.length]);
    } else if (event.key === "Enter") pick(now);
    else if (event.key === "Escape") move(null);
    else return;
    event.preventDefault();
  };
}
const pointOf = (model, x, y, text) => ({x, y, key: model.key, training: model.training,
  index: model.index, text: `${text ?? model.name}\n${numbers(model)}`});

// ---- The course: α and its companions over the steps ----
const FIELDS = [["alpha", "α", "fixed"], ["loss", "loss", "short"],
  ["error", "Barlow Twins error", "short"], ["rankme", "RankMe", "short"],
  ["accuracy", "accuracy of the readout, %", "percent"]];
const PHASES = {"warming up": "--c1", settling: "--c0", settled: "--c2", failing: "--c3",
  collapsed: "--c6", unknown: "--line"};
const measured = page.courses.flatMap((course, training) => course.map((point, i) => ({...point,
  training, key: point.model ?? -2 - training * 1e6 - i, role: models[point.model]?.role,
  before: course[i - 1]?.step})));
const shownFields = FIELDS.filter(([field]) =>
  page.courses.some(course => course.filter(point => isNumber(point[field])).length > 1));
function setUpCourse() {
  const section = find("#course");
  if (!shownFields.length) return section.remove();
  if (several) find("h2", section).textContent = `The course of ${page.trainings.length} trainings`;
  const phases = [...new Set(measured.map(point => point.phase))].filter(phase => PHASES[phase]);
  const told = phases.map(phase => {
    const swatch = element("i");
    swatch.style.background = `color-mix(in srgb, var(${PHASES[phase]}) 45%, transparent)`;
    return element("span", {className: "key"}, swatch, phase);
  });
  find("p", section).append(several ? "A line for each training. " :
    "The band around α is two standard errors of its fit. ",
    ...(told.length ? ["Phase, as it was told then: ", ...told] : []));
  for (const [field, title] of shownFields) {
    figure("#course", `course-${field}`, title, ...(field === "alpha" ? KEYS() : []));
  }
}
function drawCourse() {
  const all = [...new Set(measured.map(point => point.step))].sort((a, b) => a - b);
  const positive = all.filter(step => step > 0), last = shownFields.at(-1)?.[0];
  const uneven = positive.at(-1) > 4 * positive[positive.length >> 1];
  const ends = all.length > 1 ? [all[0], all.at(-1)] : range(all);
  const newest = page.trainings.map((_, t) => models.findLast(model => model.training === t));
  return Promise.all(shownFields.map(([field, title, format]) => {
    const known = measured.filter(point => isNumber(point[field]))
      .map(point => ({...point, colour: several ? newest[point.training].colour : "var(--accent)"}));
    const values = known.map(point => point[field]);
    const x = number("step", field === last ? "step" : null, ends,
      {...(uneven && {values: all}), format: ",d", tickMinStep: 1},
      uneven ? {type: "symlog", constant: positive[0]} : {});
    const banded = field === "alpha" && !several;
    if (banded) {
      for (const point of known) {
        [point.low, point.high] = [-2, 2].map(times => point.alpha + times * (point.stderr ?? 0));
      }
    }
    const log = spansDecades(values), seen = field !== "alpha" ? []
      : [...page.target, ...known.flatMap(point => [point.low, point.high])];
    const y = number(field, null, log ? [Math.min(...values), Math.max(...values)]
      : range([...values, ...seen]), log ? {values: DECADES, format: "~s"} : {tickCount: 4},
      log ? {type: "log"} : {});
    const lines = {data: {values: known}, encoding: {x, y, detail: {field: "training"}, color: own}};
    const layer = [
      ...Object.entries(PHASES).map(([phase, colour]) => ({
        data: {values: measured.filter(point => point.phase === phase && isKnown(point.before))},
        mark: {type: "rect", color: `var(${colour})`, opacity: 0.13},
        encoding: {x: {...x, field: "before"}, x2: {field: "step"}},
      })),
      ...(field === "alpha" ? [targetAt("y", y)] : []),
      ...(banded ? [{
        data: {values: known}, mark: {type: "area", color: "var(--accent)", opacity: 0.2},
        encoding: {x, y: {...y, field: "low"}, y2: {field: "high"}},
      }] : []),
      {...lines, name: "lines", mark: {type: "line", strokeWidth: 1.5,
        opacity: several ? (page.trainings.length > 8 ? 0.4 : 0.75) : 1}},
      {...lines, mark: {type: "point", filled: true, size: several ? 8 : 26, opacity: 0.8}},
      {...lines, transform: [{filter: "datum.training === hereT || datum.training === pickedT"}],
        mark: {type: "line", strokeWidth: several ? 3.5 : 1.5}},
      ...marked(known, {x, y}),
    ];
    const points = known.map(point => ({...point, x: point.step, y: point[field],
      index: point.model, text: `${page.trainings[point.training]}\nstep ${show("count", point.step)}, ` +
        `${title} ${show(format, point[field])}${point.phase ? `, ${point.phase}` : ""}`}));
    return draw(`course-${field}`, {height: field === "alpha" ? 240 : 130, layer}, () => points,
      `${title} over the steps`);
  }));
}

// ---- Parallel coordinates: hyperparameters, and what came of them ----
const axes = [...page.params.map(name => [`param ${name}`, name, "short"]), ["alpha", "α", "fixed"],
  ["error", "Barlow Twins error", "short"], ["rankme", "RankMe", "short"],
  ["loss", "loss", "short"], ["accuracy", "accuracy, %", "percent"]].filter(([name]) =>
  new Set(models.filter(model => model.newest).map(model => model[name]).filter(isKnown)).size > 1);
function setUpParallel() {
  if (!page.params.length || axes.length < 2) return find("#parallel").remove();
  figure("#parallel", "coordinates", "Hyperparameters and what came of them",
    "A line for each training, at its newest model; axes that span decades are logarithmic.");
}
function drawParallel() {
  const newest = models.filter(model => model.newest), marks = [], placed = {};
  for (const [name, title, format] of axes) {
    const distinct = [...new Set(newest.map(model => model[name]).filter(isKnown))].sort(natural);
    const words = distinct.some(value => typeof value === "string");
    const scale = words ? value => distinct.indexOf(value)
      : spansDecades(distinct) ? Math.log : value => value;
    const low = scale(distinct[0]), high = scale(distinct.at(-1));
    placed[name] = value => (scale(value) - low) / (high - low);
    const told = page.params.includes(title) && distinct.length <= RAMP ? distinct
      : [distinct[0], distinct.at(-1)];
    marks.push(...told.map(value => ({title, at: placed[name](value), text: show(format, value)})));
  }
  const rows = newest.flatMap(({key, training, colour, ...model}) =>
    axes.map(([name, title], place) => ({key, training, colour, title, place,
      at: isKnown(model[name]) ? placed[name](model[name]) : null})));
  const [along, across] = narrow.matches ? ["y", "x"] : ["x", "y"];
  const encoding = {
    [along]: {field: "title", type: "ordinal", sort: null, title: null, scale: {type: "point",
      padding: 0.3}, axis: {labelAngle: 0, grid: true, domain: false, ticks: false, labelLimit: 130,
      orient: along === "x" ? "top" : "left", labelOverlap: false}},
    [across]: number("at", null, [-0.04, 1.04], null),
    detail: {field: "key"}, color: own, order: {field: "place"},
  };
  const text = along === "x" ? {align: "left", dx: 5} : {baseline: "top", dy: 5};
  const {detail, color, order, ...places} = encoding;
  const points = rows.filter(row => row.at !== null).map(row => ({...pointOf(models[row.key], row.at, row.at),
    [along]: row.title}));
  return draw("coordinates", {
    height: narrow.matches ? 62 * axes.length : 300,
    layer: [
      {name: "parallel", data: {values: rows}, encoding, mark: {type: "line", strokeWidth: 1.5,
        opacity: newest.length > 40 ? 0.35 : 0.7}},
      {data: {values: rows}, encoding, transform: [{filter: `${HERE} || datum.training === pickedT`}],
        mark: {type: "line", strokeWidth: 4}},
      ...[{stroke: "var(--card)", strokeWidth: 4}, {color: "var(--ink)"}].map(look => ({
        data: {values: marks}, encoding: {...places, text: {field: "text"}},
        mark: {type: "text", fontSize: 11, ...text, ...look}})),
    ],
  }, () => points, "Hyperparameters and scores of the trainings");
}

// ---- α against accuracy, and the replay of the search ----
function setUpSearch() {
  const possible = drawn.some(model => isNumber(model[height]));
  const what = readOut.length ? "α and accuracy" : "α and RankMe";
  if (!searched) find("#search h2").remove();
  const keys = KEYS();
  if (models.some(model => isNumber(model.alpha) && !isNumber(model[height]))) {
    keys.push(key("|", readOut.length ? "not read out, or failed" : "without RankMe"));
  }
  if (readOut.length) keys.push(key("○", searched ? "best so far" : "best"));
  if (searched) keys.push(key("▒", "interval worth a readout"));
  if (possible) figure("#against", "scatter", what, ...keys);
  else find("#against").append("There is nothing to draw α against: no model has both an α and an " +
    "accuracy or RankMe.");
  if (!searched) {
    find("#history").remove();
    return find("#search .slider").remove();
  }
  figure("#history", "closing", "The interval closes in", "Each model in the order of arrival, and " +
    "the α that are worth a readout after it. ", key("●", "read out"), key("✕", "not read out"));
  figure("#history", "growth", "Readouts paid", key("━", "paid"), key("┄", "one for each model"),
    key("┈", "a share of 1/step"));
  const slider = find("#replay");
  slider.value = slider.max = models.length;
  slider.addEventListener("input", () => {
    tell({arrived: Number(slider.value)});
    tellReplay();
  });
  tellReplay();
}
function tellReplay() {
  const so = models.slice(0, state.arrived), top = best(so);
  const spent = so.filter(model => model.paid).length;
  find("#state").textContent = `${show("count", so.length)} of ` +
    `${show("count", models.length)} models. Readouts paid ${spent}, ` +
    `saved ${so.length - spent}. Worth a readout: ${interval(so.at(-1).interval)}. ` +
    (top ? `Best so far: ${show("percent", top.accuracy)}.` : "");
}
function drawScatter() {
  const up = drawn.filter(model => isNumber(model[height]));
  const without = drawn.filter(model => !isNumber(model[height]));
  const ends = range([...drawn.map(model => model.alpha), ...page.target]);
  const x = number("alpha", "α", ends, {tickCount: narrow.matches ? 5 : 9}), tall = narrow.matches ? 320 : searched ? 470 : 380;
  const y = number("up", null, range(up.map(model => model[height])));
  const values = slim(up).map(model => ({...model, up: model[height]}));
  const later = {condition: {test: "datum.index >= arrived", value: 0.15}, value: 0.9};
  let top = null;
  const tops = models.map((model, i) => ({at: i + 1, ...(top = best([top, model].filter(isKnown)))}))
    .filter(model => isNumber(model.alpha)).map(({at, alpha, accuracy}) => ({at, alpha, up: accuracy}));
  const layer = [
    ...(searched ? [{
      name: "band", transform: [{filter: "datum.at === arrived"}],
      data: {values: models.map(({interval: [low, high]}, i) =>
        ({at: i + 1, low: low ?? ends[0], high: high ?? ends[1]}))},
      mark: {type: "rect", color: "var(--accent)", opacity: 0.13, clip: true},
      encoding: {x: {...x, field: "low"}, x2: {field: "high"}},
    }] : []),
    targetAt("x", x),
    {name: "without", data: {values: slim(without)}, mark: {type: "rule", color: "var(--warm)",
      strokeWidth: 1.5}, encoding: {x, y: {value: tall - 9}, y2: {value: tall}, opacity: later}},
    ...(several && !searched ? [{data: {values}, mark: {type: "line", strokeWidth: 1, opacity: 0.35},
      encoding: {x, y, detail: {field: "training"}, order: {field: "step"}, color: own}}] : []),
    {name: "dots", data: {values}, mark: {type: "point", filled: true}, encoding: {x, y,
      color: own, opacity: later, size: {condition: {test: "datum.newest", value: 70}, value: 28}}},
    {data: {values: tops}, transform: [{filter: "datum.at === arrived"}], encoding: {x, y},
      mark: {type: "point", size: 220, stroke: "var(--ink)", strokeWidth: 1.5, fill: null}},
    ...marked(values, {x, y}),
  ];
  const bottom = y.scale.domain[0];
  const points = drawn.map(model => pointOf(model, model.alpha, model[height] ?? bottom));
  return draw("scatter", {height: tall, layer, title: readOut.length ? "accuracy of the readout, %"
    : "RankMe"}, () => points, `α against ${readOut.length ? "accuracy" : "RankMe"}`);
}
function drawClosing() {
  const ends = range([...drawn.map(model => model.alpha), ...page.target]);
  const x = number("at", null, [0, models.length + 1], {format: "d"});
  const y = number("alpha", null, ends, {tickCount: 5});
  const open = [{at: 0, low: ends[0], high: ends[1]}, ...models.map(({interval: [low, high]}, i) =>
    ({at: i + 1, low: low ?? ends[0], high: high ?? ends[1]}))];
  const values = slim(drawn).map(model => ({...model, at: model.index + 1}));
  const later = {condition: {test: "datum.index >= arrived", value: 0.15}, value: 0.9};
  const points = values.map(model => pointOf(model, model.at, model.alpha,
    `${model.at}. ${model.name}`));
  return draw("closing", {height: 200, title: "α", layer: [
    {data: {values: open}, encoding: {x, y: {...y, field: "low"}, y2: {field: "high"}},
      mark: {type: "area", interpolate: "step-after", color: "var(--accent)", opacity: 0.13}},
    ...["low", "high"].map(field => ({data: {values: open}, encoding: {x, y: {...y, field}},
      mark: {type: "line", interpolate: "step-after", color: "var(--accent)", strokeWidth: 1.5}})),
    targetAt("y", y),
    {data: {values}, mark: {type: "point", filled: true}, encoding: {x, y, opacity: later,
      shape: {condition: {test: "datum.paid", value: "circle"}, value: "M-1-.7L-.7-1L0-.3L.7-1L1-.7L.3 0L1 .7L.7 1L0 .3L-.7 1L-1 .7L-.3 0Z"},
      color: {condition: {test: "datum.paid", value: "var(--accent)"}, value: "var(--warm)"},
      size: {value: models.length > 300 ? 8 : 26}}},
    {data: {values: [...open.keys()].map(at => ({at}))}, encoding: {x},
      transform: [{filter: "datum.at === arrived"}], mark: {type: "rule", color: "var(--quiet)"}},
    ...marked(values, {x, y}),
  ]}, () => points, `α and interval of ${models.length} models in the order of arrival`);
}
function drawGrowth() {
  const step = 2 * page.topK, rows = [{at: 0, paid: 0, share: 0, index: -1, key: -1}];
  for (const {index, key, training, paid} of models) {
    const last = rows.at(-1);
    rows.push({at: index + 1, paid: last.paid + paid, index, key, training,
      share: last.share + 1 / Math.ceil((index + 1) / step)});
  }
  const x = number("at", "models trained", [0, models.length + 1], {format: "d"});
  const line = (field, mark) => ({mark: {type: "line", ...mark}, encoding: {x,
    y: number(field, null, [0, models.length * 1.05], {tickCount: 4, format: "d"})}});
  const points = rows.slice(1).map(row => ({...row, x: row.at, y: row.paid, text: `After ${row.at} ` +
    `models: ${row.paid} readouts\nAt 1/step: ${row.share.toFixed(1)}`}));
  return draw("growth", {height: 150, title: "readouts, all together", data: {values: rows}, layer: [
    line("at", {color: "var(--quiet)", strokeDash: [6, 4], strokeWidth: 1}),
    line("share", {color: "var(--warm)", strokeDash: [2, 3]}),
    line("paid", {color: "var(--accent)", strokeWidth: 2.5}),
    {encoding: {x}, transform: [{filter: "datum.at === arrived"}],
      mark: {type: "rule", color: "var(--quiet)"}},
  ]}, () => points, `Readouts paid over ${models.length} models`);
}

// ---- Spectra, and a film of them over the steps ----
const OVERLAID = 60;
function spread(list, most) { // evenly, from the first to the last
  const at = i => Math.round(i * (list.length - 1) / Math.max(1, most - 1));
  return list.length <= most ? list : Array.from({length: most}, (_, i) => list[at(i)]);
}
const having = models.filter(model => model.spectrum.length > 1);
for (const model of having) { // a model is the newest of its training until the next one comes
  const later = having.filter(m => m.training === model.training && m.step > model.step);
  model.until = Math.min(...later.map(m => m.step), Number.MAX_VALUE);
}
const plays = steps.length > 1 && page.courses.some(course => course.length > 1);
function setUpSpectra() {
  if (!having.length) {
    return find("#spectra").replaceChildren("These records carry no eigenvalues to draw.");
  }
  figure("#spectra", "curves", "Spectra", plays ? (several ? "Each training at the step of the " +
    "slider, or at its last measurement before. " : "The step of the slider is drawn strong, the " +
    "others faint. ") : "", "Point at a curve, or pick a row, to see it with its fitted line.");
  find("#spectra").append(find("#spectra .slider"));
  if (!plays) return find("#spectra .slider").remove();
  const slider = find("#step"), play = find("#play");
  slider.value = slider.max = steps.length - 1;
  const now = () => {
    find("#now").textContent = `step ${show("count", steps[slider.value])}`;
    return tell({step: steps[slider.value]});
  };
  let film = null;
  const stop = () => {
    clearInterval(film);
    film = null;
    play.textContent = "▶";
    play.setAttribute("aria-label", "Play the steps");
  };
  play.addEventListener("click", () => {
    if (film) return stop();
    if (Number(slider.value) === steps.length - 1) slider.value = 0;
    film = setInterval(() => {
      slider.value = Number(slider.value) + 1;
      now();
      if (Number(slider.value) === steps.length - 1) stop();
    }, 600);
    play.textContent = "❚❚";
    play.setAttribute("aria-label", "Stop");
    now();
  });
  slider.addEventListener("input", () => { stop(); now(); });
  now();
}
function drawSpectra() {
  const trainings = new Set(spread([...new Set(having.map(model => model.training))], OVERLAID));
  const known = having.filter(model => isKnown(model[colourBy]))
    .sort((a, b) => natural(a[colourBy], b[colourBy]));
  const rest = having.filter(model => !known.includes(model)); // grey lies below
  const kept = plays && several ? having.filter(model => trainings.has(model.training))
    : [...spread(rest, Math.max(OVERLAID - known.length, 0)), ...spread(known, OVERLAID)];
  const rows = some => some.flatMap(model => model.spectrum.map((value, i) => ({
    key: model.key, training: model.training, colour: model.colour, step: model.step,
    until: model.until, rank: page.ranks[i], share: 10 ** value})));
  const x = number("rank", "rank n", [1, Math.max(page.ranks.at(-1), 2)],
    {format: "d", values: DECADES.flatMap(ten => [ten, 2 * ten, 5 * ten])}, {type: "log"});
  const lowest = Math.min(...having.flatMap(model => model.spectrum));
  const y = number("share", null, [10 ** Math.min(lowest, -0.1), 1.2],
    {values: DECADES, labelExpr: "format(datum.value, datum.value < 1e-3 ? '~e' : '~g')"},
    {type: "log"});
  const encoding = {x, y, detail: {field: "key"}, color: own};
  const current = "datum.step <= step && step < datum.until";
  const touched = "here >= 0 || picked >= 0";
  const lines = having.filter(model => model.line).flatMap(({key, line: [first, last, a, b]}) =>
    [{key, rank: first, share: 10 ** a}, {key, rank: last, share: 10 ** b}]);
  const faint = kept.length > 12 || plays ? 0.45 : 0.8;
  const all = rows(kept);
  const layer = [
    {name: "spectra", data: {values: all}, encoding: {...encoding,
      opacity: {condition: {test: touched, value: 0.15}, value: plays && !several ? 0.2 : faint}},
      transform: plays && several ? [{filter: current}] : [],
      mark: {type: "line", strokeWidth: 1, clip: true}},
    ...(plays && !several ? [{data: {values: all}, encoding, transform: [{filter: current}],
      mark: {type: "line", strokeWidth: 2.5, clip: true}}] : []),
    {name: "strong", data: {values: rows(having)}, encoding, transform: [{filter: HERE}],
      mark: {type: "line", strokeWidth: 3, clip: true}},
    {name: "fit", data: {values: lines}, encoding: {x, y, detail: {field: "key"}},
      transform: [{filter: HERE}],
      mark: {type: "line", color: "var(--ink)", strokeWidth: 1.5, strokeDash: [5, 4], clip: true}},
  ];
  const seen = model => !plays || !several || (model.step <= state.step && state.step < model.until);
  const points = new Map(kept.map(model => [model, model.spectrum.map((value, i) =>
    pointOf(model, page.ranks[i], 10 ** value))]));
  return draw("curves", {height: narrow.matches ? 300 : 400, layer,
    title: "eigenvalue λₙ, share of the largest"},
  () => [...points].filter(([model]) => seen(model)).flatMap(([, found]) => found),
  `Spectra of ${kept.length} models`);
}

// ---- The table ----
const rows = [];
function setUpTable() {
  for (const [key, heading, , better] of page.columns) {
    const button = element("button", {type: "button", textContent: heading});
    const cell = element("th", {scope: "col"}, button);
    button.addEventListener("click", () => {
      const now = cell.getAttribute("aria-sort");
      sort(key, now ? now === "descending" : better === "low");
    });
    find("#models thead tr").append(cell);
  }
  for (const model of models) {
    const row = element("tr");
    for (const [key, , format] of page.columns) {
      const cell = row.insertCell();
      if (key === "name") cell.append(element("button", {type: "button"}, ...soft(model.name)));
      else cell.textContent = show(format, model[key]);
    }
    row.addEventListener("click", () => pick(model));
    rows.push(row);
  }
  sort(readOut.length ? "accuracy" : "distance", !readOut.length);
  find("#csv").addEventListener("click", () => save("models.csv", table(), "text/csv"));
}
/** The table as a file; a text that a spreadsheet would compute has a ' before. */
function table() {
  const cell = value => typeof value === "number" ? value
    : `"${(value ?? "").replace(/^\s*[=+\-@]/, "'$&").replaceAll('"', '""')}"`;
  const lines = [page.columns.map(([, heading]) => heading),
    ...models.map(model => page.columns.map(([key]) => model[key]))];
  return lines.map(line => `${line.map(cell).join(",")}\n`).join("");
}
function sort(key, ascending) {
  const sign = ascending ? 1 : -1;
  const order = models.slice().sort((m, n) => {
    const [a, b] = [m[key] ?? null, n[key] ?? null]; // what is missing comes last, either way
    return a === null || b === null ? (a === null) - (b === null) : sign * natural(a, b);
  });
  find("#models tbody").replaceChildren(...order.map(model => rows[model.index]));
  page.columns.forEach(([name], i) => {
    const cell = find("#models thead tr").cells[i];
    if (name !== key) cell.removeAttribute("aria-sort");
    else cell.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  });
}
/** Show one model everywhere, or none if it was shown. */
function pick(point) {
  if (!isKnown(point?.index) || point.index < 0) return;
  const picked = state.picked === point.index ? -1 : point.index, model = models[picked];
  rows.forEach((row, i) => {
    row.classList.toggle("chosen-row", i === picked);
    find("button", row).setAttribute("aria-pressed", i === picked);
  });
  find("#picked").replaceChildren(...(model ? soft(`Picked: ${model.name}: ${numbers(model)}, ` +
    `fitted ranks ${model.window ?? "–"}${model.spectrum.length > 1 ? "" :
      "; it carries no eigenvalues"}.`) : []));
  return tell({picked, pickedT: several && model ? model.training : -1});
}

// ---- What was found, in words ----
function setUpVerdict() {
  const [[label, text], ...others] = page.verdict, none = label !== "verdict" || text === "no choice";
  const card = find("#verdict"), list = element("dl");
  card.classList.toggle("none", none);
  card.classList.toggle("wait", others.some(line => line.join() === "phase,warming up"));
  const title = label !== "verdict" ? "No verdict" : none ? "No choice" : "Keep ";
  card.append(element("h2", {}, ...(none ? [title] : [title, ...soft(text)])), list);
  if (label !== "verdict") others.unshift(["because", text]);
  let said = null; // lines of one kind stand together
  others.forEach(([kind, line], i) => {
    if (kind !== others[i - 1]?.[0]) {
      said = element("dd", {className: kind === "advice" ? kind : ""});
      list.append(element("dt", {}, kind), said);
    }
    said.append(element("p", {}, ...soft(line)));
  });
}
function setUpChoices() {
  const {count, rows: found} = page.choices;
  if (!found.length) return find("#choices").remove();
  find("#choices-text").textContent = `Labels were used here, and not in the verdict: ${count} ` +
    `${several ? "trainings, each at its newest model with a readout" : "checkpoints with a readout"}. ` +
    "ρ is Spearman’s correlation of a score with the accuracy over them; below 0 the score points " +
    "the wrong way.";
  for (const {criterion, choice: model, accuracy, lost, rho, interval: ends} of found) {
    const name = element("td"), row = element("tr", {}, element("td", {}, criterion), name,
      element("td", {}, show("percent", accuracy)), element("td", {}, lost.toFixed(1)),
      element("td", {className: rho < 0 ? "bad" : ""}, rho === null ? "" :
        show("hundredths", rho) + (ends[0] === null ? "" : ` (${ends.map(end =>
          show("hundredths", end)).join(" to ")})`)));
    if (model === null) name.append(`the mean of ${count}`);
    else {
      const button = element("button", {type: "button"}, ...soft(models[model].name));
      button.addEventListener("click", () => pick(models[model]));
      name.append(button);
    }
    find("#choices tbody").append(row);
  }
}
function setUpFacts() {
  const top = best(models), facts = [["models", show("count", models.length), several &&
    page.trainings.length < models.length ? `of ${show("count", page.trainings.length)} trainings` : ""]];
  if (top) facts.push(["best accuracy", show("percent", top.accuracy), "of those that were read out"]);
  if (searched) {
    const closed = models.at(-1).interval.some(isNumber);
    facts.push(["interval learnt", interval(models.at(-1).interval), closed ? "" :
      `closes from ${2 * page.topK} readouts on`]);
  }
  if (paid.length) facts.push(["readouts paid", show("count", paid.length), ""]);
  if (searched) {
    facts.push(["readouts saved", show("count", models.length - paid.length),
      `${(100 * (1 - paid.length / models.length)).toFixed(0)} % of all`]);
  }
  const [low, high] = page.target;
  facts.push(["target", low === high ? `α = ${low}` : `α in ${low} – ${high}`, ""]);
  for (const [name, value, more] of facts) {
    find("#facts").append(element("div", {}, element("dt", {}, name),
      element("dd", {}, value, element("small", {}, more))));
  }
  if (page.folder) find("#folder").append("Names are relative to ", ...soft(`${page.folder}/`));
  find("#written").append(page.written, ...(page.command ? [": ",
    element("code", {}, ...soft(page.command))] : []));
}
function setUpNotes() {
  if (!page.notes.length) return find("#notes").remove();
  find("#notes ul").append(...page.notes.map(text => element("li", {}, ...soft(text))));
}
function setUpColours() {
  const choices = [...page.columns.filter(([key]) => key.startsWith("param ")),
    ...(steps.length > 1 ? [["step", "step"]] : []), ["alpha", "α"],
    ...(readOut.length ? [["accuracy", "accuracy"]] : []),
    ...(models.some(model => isNumber(model.rankme)) ? [["rankme", "RankMe"]] : [])];
  if (!choices.some(([key]) => key === colourBy)) colourBy = "alpha";
  const select = find("#colour");
  select.append(...choices.map(([key, name]) => new Option(name, key, false, key === colourBy)));
  select.addEventListener("change", () => {
    colourBy = select.value;
    drawAll();
  });
}

async function drawAll() {
  paint();
  await Promise.all([drawCourse(), drawParallel(), drawScatter(), drawClosing(), drawGrowth(),
    drawSpectra()]);
}
setUpVerdict();
setUpChoices();
setUpNotes();
setUpFacts();
setUpColours();
setUpCourse();
setUpParallel();
setUpSearch();
setUpSpectra();
setUpTable();
find("main").hidden = false; // before drawing: a hidden figure has no width
const ready = drawAll().catch(error => failed(error.message));
narrow.addEventListener("change", drawAll);
