"use strict";
// The image of a field: tiles of the level that fits the zoom, and the sources over them.
(() => {
  const field = JSON.parse(document.getElementById("field-data").textContent);
  const columns = field.columns, count = columns.id.length;
  const canvas = document.getElementById("canvas"), stage = canvas.parentElement;
  const context = canvas.getContext("2d");
  const colors = { point: "#f0b040", profile: "#56b4e9", "free-form": "#e58fd0" };
  const SERIOUS = "#ff5b4f", OTHER = "#b08fcf";
  const view = { x: field.width / 2 - 0.5, y: field.height / 2 - 0.5, zoom: 1, fit: 1 };
  const TRUTH = { missed: "#ffffff", shred: "#f0d000", spurious: "#ff9a57" };
  const state = { layer: "data", kinds: null, truth: new Set(Object.keys(field.truth)), flag: "", marks: true, chosen: -1 };
  const pictures = new Map();
  let waiting = false, width = 0, height = 0, dense = 1;

  function redraw() {
    if (!waiting) { waiting = true; requestAnimationFrame(draw); }
  }

  // Places: x and y of the field are centers of pixels, and y goes up.
  const toScreen = (x, y) => [(x - view.x) * view.zoom + width / 2, (view.y - y) * view.zoom + height / 2];
  const toField = (left, top) => [(left - width / 2) / view.zoom + view.x, view.y - (top - height / 2) / view.zoom];

  function picture(address) {
    let image = pictures.get(address);
    if (!image) {
      image = new Image();
      image.onload = redraw;
      image.src = address;
      pictures.set(address, image);
    }
    return image.complete && image.naturalWidth ? image : null;
  }

  function drawLevel(level) {
    const step = 512 * level.scale, top = level.height * level.scale - 0.5;
    context.imageSmoothingEnabled = view.zoom * level.scale < 2;
    level.tiles.forEach((row, i) => row.forEach((address, j) => {
      const [left, up] = toScreen(j * step - 0.5, top - i * step);
      const wide = Math.min(512, level.width - 512 * j) * level.scale * view.zoom;
      const high = Math.min(512, level.height - 512 * i) * level.scale * view.zoom;
      if (left > width || up > height || left + wide < 0 || up + high < 0) return;
      const image = picture(address);
      // Half a pixel more hides the seams between tiles.
      if (image) context.drawImage(image, left, up, wide + 0.5, high + 0.5);
    }));
  }

  function isShown(k) {
    if (state.kinds && !state.kinds.has(columns.model[k])) return false;
    if (!state.flag) return true;
    const mask = state.flag === "serious" ? field.serious : 2 ** field.flags[state.flag][0];
    return (columns.flag_bits[k] & mask) !== 0;
  }

  // Lines with a dark rim are seen on white residuals and weights too.
  function stroke(color, width) {
    if (state.layer === "residual" || state.layer === "kept" || color === "#ffffff") {
      context.lineWidth = width + 2; context.strokeStyle = "rgb(0 0 0 / 70%)"; context.stroke();
    }
    context.lineWidth = width; context.strokeStyle = color; context.stroke();
  }

  function mark(k, left, top, size) {
    const kind = columns.model[k];
    context.beginPath();
    if (kind === "point") {
      context.moveTo(left, top - size); context.lineTo(left + size, top);
      context.lineTo(left, top + size); context.lineTo(left - size, top); context.closePath();
    } else if (kind === "free-form") {
      context.rect(left - 0.8 * size, top - 0.8 * size, 1.6 * size, 1.6 * size);
    } else {
      context.arc(left, top, size, 0, 2 * Math.PI);
    }
    const line = size > 4 ? 1.6 : 1;
    stroke(colors[kind] || OTHER, line);
    if (columns.flag_bits[k] & field.serious) {
      context.beginPath();
      context.arc(left, top, size + 3, 0, 2 * Math.PI);
      stroke(SERIOUS, line);
    }
  }

  function drawMarks() {
    const size = Math.max(2, Math.min(9, 3 * Math.sqrt(view.zoom) + 1)), places = [];
    for (let k = 0; k < count; k++) {
      const [left, top] = toScreen(columns.x[k], columns.y[k]);
      const inside = left > -20 && top > -20 && left < width + 20 && top < height + 20;
      if (inside && state.marks && isShown(k)) places.push([k, left, top]);
    }
    if (places.length * 900 > width * height) {
      // Too many for rings: they would hide the image.
      places.forEach(([k, left, top]) => {
        context.fillStyle = columns.flag_bits[k] & field.serious ? SERIOUS : colors[columns.model[k]] || OTHER;
        context.fillRect(left - 0.75, top - 0.75, 1.5, 1.5);
      });
    } else {
      places.forEach(([k, left, top]) => mark(k, left, top, size));
    }
    if (state.chosen >= 0) {
      context.beginPath();
      context.arc(...toScreen(columns.x[state.chosen], columns.y[state.chosen]), size + 7, 0, 2 * Math.PI);
      stroke("#ffffff", 2.5);
    }
  }

  // What a comparison with the truth found: crosses for missed sources, triangles for those that are none.
  function drawTruth() {
    const size = Math.max(3, Math.min(9, 4 * Math.sqrt(view.zoom) + 1));
    Object.entries(field.truth).forEach(([name, places]) => {
      if (!state.truth.has(name)) return;
      context.beginPath();
      places.forEach(([x, y]) => {
        const [left, top] = toScreen(x, y);
        if (name === "missed") {
          context.moveTo(left - size, top - size); context.lineTo(left + size, top + size);
          context.moveTo(left - size, top + size); context.lineTo(left + size, top - size);
        } else {
          context.moveTo(left, top - 1.3 * size - 2); context.lineTo(left + size + 2, top + size);
          context.lineTo(left - size - 2, top + size); context.closePath();
        }
      });
      stroke(TRUTH[name], 1.8);
    });
  }

  function draw() {
    waiting = false;
    context.setTransform(dense, 0, 0, dense, 0, 0);
    context.fillStyle = "#0c0c0e";
    context.fillRect(0, 0, width, height);
    const levels = field.layers[state.layer];
    drawLevel(levels[levels.length - 1]);
    // The coarsest level that is as fine as the screen.
    let best = 0;
    levels.forEach((level, i) => { if (level.scale * view.zoom * dense <= 1.5) best = Math.max(best, i); });
    if (best < levels.length - 1) drawLevel(levels[best]);
    drawMarks();
    if (state.marks) drawTruth();
  }

  function limits() {
    view.zoom = Math.min(40, Math.max(0.5 * view.fit, view.zoom));
    view.x = Math.min(field.width, Math.max(0, view.x));
    view.y = Math.min(field.height, Math.max(0, view.y));
    redraw();
  }

  function zoomAt(factor, left, top) {
    const [x, y] = toField(left, top);
    view.zoom = Math.min(40, Math.max(0.5 * view.fit, view.zoom * factor));
    view.x = x - (left - width / 2) / view.zoom;
    view.y = y + (top - height / 2) / view.zoom;
    limits();
  }

  function fit() {
    view.x = field.width / 2 - 0.5; view.y = field.height / 2 - 0.5;
    view.zoom = view.fit;
    limits();
  }

  function resize() {
    const first = width === 0, whole = view.zoom === view.fit;
    width = stage.clientWidth; height = stage.clientHeight; dense = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * dense); canvas.height = Math.round(height * dense);
    view.fit = Math.min(width / field.width, height / field.height);
    if (first || whole) fit(); else limits();
  }

  function nearest(left, top, reach) {
    let best = -1, least = reach * reach;
    for (let k = 0; k < count; k++) {
      if (!isShown(k)) continue;
      const [a, b] = toScreen(columns.x[k], columns.y[k]);
      const far = (a - left) ** 2 + (b - top) ** 2;
      if (far < least) { least = far; best = k; }
    }
    return best;
  }

  // The row of a source.
  const text = (value) => value === null || value === undefined ? "no data" : String(value);
  const value = (name, k) => columns[name] ? columns[name][k] : undefined;

  function element(tag, content, attributes) {
    const made = document.createElement(tag);
    Object.entries(attributes || {}).forEach(([name, one]) => made.setAttribute(name, one));
    (Array.isArray(content) ? content : [content]).forEach((one) => made.append(one));
    return made;
  }

  function withError(name, k) {
    const best = value(name, k), error = value(name.replace(/^(flux|mag)_/, "$1_err_"), k);
    if (best === null || best === undefined) return "no data";
    if (!(error > 0)) return text(best);
    // Two digits of the error, left of the point as well.
    const digits = Math.min(6, 1 - Math.floor(Math.log10(error))), step = 10 ** -digits;
    const rounded = (one) => digits < 0 ? String(Math.round(one / step) * step) : one.toFixed(digits);
    return `${rounded(best)} ± ${rounded(error)}`;
  }

  function choose(k) {
    state.chosen = k;
    const target = document.getElementById("row");
    if (k < 0) {
      target.replaceChildren(element("p", "No source there.", { class: "about" }));
      redraw();
      return;
    }
    const body = element("tbody", []);
    const add = (name, content) => body.append(element("tr", [element("th", name, { scope: "row" }), element("td", content)]));
    add("column, row", `${text(columns.x[k])}, ${text(columns.y[k])}`);
    if (columns.ra) add("RA, Dec", `${text(columns.ra[k])}, ${text(columns.dec[k])}`);
    field.bands.forEach((band) => {
      const unit = field.units[`flux_${band}`] || "";
      add(`flux ${band}`, `${withError(`flux_${band}`, k)} ${unit}`);
    });
    field.bands.filter((band) => columns[`mag_${band}`]).forEach((band) => {
      add(`mag ${band}`, withError(`mag_${band}`, k));
    });
    const labels = { model: "model", p_star: "P(star)", snr: "signal to noise", size: "size [pix]",
      size_arcsec: "size [arcsec]", e1: "e1", e2: "e2", chi2: "chi²", group: "group", scene: "scene" };
    Object.entries(labels).forEach(([name, label]) => {
      if (columns[name]) add(label, text(columns[name][k]));
    });
    const said = Object.entries(field.flags).filter(([, flag]) => columns.flag_bits[k] & 2 ** flag[0]);
    const flags = said.length
      ? element("ul", said.map(([word, flag]) => element("li", `${word}: ${flag[1]}`)))
      : element("p", "No flags.");
    const command = `scorepriors source ${field.folder || "DIR"} ${columns.id[k]}`;
    target.replaceChildren(
      element("h3", columns.id[k]), flags, element("table", body),
      element("p", ["Its images: ", element("code", command)]),
    );
    redraw();
  }

  function go(id) {
    const k = columns.id.indexOf(id);
    if (k < 0) {
      document.getElementById("row").replaceChildren(
        element("p", `There is no source ${id} in this page.`));
      return;
    }
    view.x = columns.x[k]; view.y = columns.y[k];
    view.zoom = Math.max(view.zoom, Math.min(8, 40 * view.fit));
    choose(k);
    limits();
  }

  // Mouse, pen and fingers.
  const fingers = new Map();
  let moved = 0;
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, at(event));
    if (fingers.size === 1) moved = 0;
  });
  canvas.addEventListener("pointermove", (event) => {
    const now = at(event), before = fingers.get(event.pointerId);
    const [x, y] = toField(...now);
    document.getElementById("place").textContent = `${x.toFixed(0)}, ${y.toFixed(0)}`;
    if (!before) return;
    moved += Math.abs(now[0] - before[0]) + Math.abs(now[1] - before[1]);
    if (fingers.size === 1) {
      view.x -= (now[0] - before[0]) / view.zoom;
      view.y += (now[1] - before[1]) / view.zoom;
    } else {
      const other = [...fingers].find(([id]) => id !== event.pointerId)[1];
      const apart = (one) => Math.hypot(one[0] - other[0], one[1] - other[1]);
      if (apart(before) > 0) zoomAt(apart(now) / apart(before), ...other);
    }
    fingers.set(event.pointerId, now);
    limits();
  });
  const lift = (event) => {
    const here = fingers.get(event.pointerId);
    fingers.delete(event.pointerId);
    if (event.type === "pointerup" && here && !fingers.size && moved < 6) {
      choose(nearest(...here, event.pointerType === "touch" ? 26 : 14));
    }
    if (fingers.size) moved = 100;
  };
  canvas.addEventListener("pointerup", lift);
  canvas.addEventListener("pointercancel", lift);
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 20 : 1;
    zoomAt(Math.exp(-0.0015 * lines * event.deltaY), ...at(event));
  }, { passive: false });
  canvas.addEventListener("dblclick", (event) => zoomAt(2, ...at(event)));

  // Keys.
  function layer(name) {
    state.layer = name;
    document.querySelectorAll("input[name=layer]").forEach((one) => { one.checked = one.value === name; });
    redraw();
  }
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const far = 60 / view.zoom;
    const keys = {
      ArrowLeft: () => { view.x -= far; }, ArrowRight: () => { view.x += far; },
      ArrowUp: () => { view.y += far; }, ArrowDown: () => { view.y -= far; },
      "+": () => zoomAt(1.4, width / 2, height / 2), "=": () => zoomAt(1.4, width / 2, height / 2),
      "-": () => zoomAt(1 / 1.4, width / 2, height / 2), 0: fit,
      1: () => layer("data"), 2: () => layer("model"), 3: () => layer("residual"),
      4: () => { if (field.layers.kept) layer("kept"); },
      m: () => { state.marks = !state.marks; },
      Enter: () => choose(nearest(width / 2, height / 2, Infinity)),
    };
    const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (act) { event.preventDefault(); act(); limits(); }
  });

  // Buttons and choices.
  document.querySelectorAll("input[name=layer]").forEach((one) =>
    one.addEventListener("change", () => layer(one.value)));
  const boxes = [...document.querySelectorAll("input[name=kind]")];
  boxes.forEach((one) => one.addEventListener("change", () => {
    state.kinds = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    redraw();
  }));
  document.querySelectorAll("input[name=truth]").forEach((one) => one.addEventListener("change", () => {
    if (one.checked) state.truth.add(one.value); else state.truth.delete(one.value);
    redraw();
  }));
  document.getElementById("flag").addEventListener("change", (event) => {
    state.flag = event.target.value;
    redraw();
  });
  document.getElementById("search").addEventListener("submit", (event) => {
    event.preventDefault();
    go(event.target.elements.id.value.trim());
  });
  document.querySelectorAll("[data-zoom]").forEach((one) => one.addEventListener("click", () => {
    const how = one.dataset.zoom;
    if (how === "fit") fit(); else zoomAt(how === "in" ? 1.6 : 1 / 1.6, width / 2, height / 2);
  }));
  document.querySelectorAll("[data-go]").forEach((one) => one.addEventListener("click", () => {
    go(one.dataset.go);
    document.getElementById("field").scrollIntoView();
  }));
  new ResizeObserver(resize).observe(stage);
  resize();
})();
