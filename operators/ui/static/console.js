"use strict";
// Everything that comes from a server is set as text, never as HTML.

const EVERY_MS = 2000;
const byId = (id) => document.getElementById(id);
let order = null; // the request that the dialog confirms: {path, withVersion, done}

function make(tag, text = "", className = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  if (className) element.className = className;
  return element;
}

function table(rows, head = []) {
  const element = make("table");
  if (head.length) {
    const line = element.createTHead().insertRow();
    head.forEach((text) => line.append(make("th", text)));
  }
  const body = element.createTBody();
  rows.forEach((cells) => {
    const line = body.insertRow();
    cells.forEach((cell) => line.append(cell instanceof Node ? cell : make("td", cell)));
  });
  return element;
}

const when = (text) => (text ? new Date(text).toLocaleString() : "");
const number = (value) => (typeof value === "number" ? String(Number(value.toPrecision(3))) : String(value));
// Shares are shown in points or %, as in the judge's sentences.
const inUnit = (value, unit) => number(unit ? 100 * Number(value) : value);

function traffic(model) {
  if (!model.stable) return "no traffic";
  const parts = [`version ${model.stable} answers`];
  if (model.canary) {
    const share = model.weight_now_pct === model.weight_pct
      ? `${model.weight_pct} %` : `${model.weight_now_pct} % instead of ${model.weight_pct} %, because its release no longer renews its lease`;
    parts.push(model.control
      ? `version ${model.canary}, the one before, keeps ${share} to compare with`
      : `canary ${model.canary} has ${share}`);
  }
  if (model.shadow) parts.push(`shadow ${model.shadow} gets copies of requests, and no caller sees its answers`);
  return parts.join("; ");
}

function guards(release) {
  const rows = Object.entries(release.guards).map(([name, reading]) => {
    const failed = Number(reading.e) >= Number(reading.threshold);
    const ends = (reading.interval || []).map((end) => inUnit(end, reading.unit));
    const harm = ends.length ? `${ends.join(" and ")} ${reading.unit}`.trim() : "unknown";
    const state = failed ? "failed" : reading.refuted ? "passed" : reading.missing || "not decided yet";
    const evidence = `${number(reading.e)}, fails at ${number(reading.threshold)}`;
    return [name, evidence, harm, make("td", state, failed ? "bad" : "")];
  });
  return table(rows, ["guard", "evidence of harm", "harm lies between", "result"]);
}

function card(model) {
  const element = make("article");
  const head = make("header");
  head.append(make("h2", model.name));
  if (model.may_roll_back && model.stable) {
    const button = make("button", "Roll back …");
    button.addEventListener("click", () => askRollback(model));
    head.append(button);
  }
  element.append(head, make("div", traffic(model)));
  if (model.champion !== model.stable) {
    element.append(make("div", `the registry's alias \`champion\` ${model.champion ? `names version ${model.champion}` : "is not set"}; the DAG \`reconcile\` will let it name version ${model.stable || "none"}`, "bad"));
  }
  if (model.breaker_open) element.append(make("div", "the edge sends the canary no requests, because it failed too often", "bad"));
  if (model.canary) {
    const bar = make("div", "", "bar");
    const share = make("span");
    share.style.width = `${model.weight_now_pct}%`;
    bar.append(share);
    element.append(bar);
  }
  if (model.release) {
    const release = model.release;
    const look = release.look ? `the judge's look ${release.look} was at ${when(release.looked_at)}` : "the judge has not looked yet";
    element.append(
      make("h3", `Release of version ${release.version || "?"}`),
      make("div", `${release.step} since ${when(release.since)}; ${look}`),
    );
    if (Object.keys(release.guards).length) element.append(guards(release));
  }
  if (model.quarantine.length) {
    const rows = model.quarantine.map((one) => [`version ${one.version}`, one.reason, lifting(model, one)]);
    element.append(make("h3", "In quarantine"), table(rows));
  }
  if (model.decisions.length) {
    const rows = model.decisions.map((row) => [make("td", when(row.at), "when"), row.kind.replaceAll("_", " "), row.text]);
    element.append(make("h3", "Last decisions"), table(rows));
  }
  return element;
}

function lifting(model, one) {
  const cell = make("td");
  if (!model.may_roll_back) return cell;
  const button = make("button", "Lift …");
  button.addEventListener("click", () => ask({
    title: `Allow releases of version ${one.version} of ${model.name} again`,
    effect: `It is in quarantine because: ${one.reason}`,
    go: "Lift the quarantine",
    path: `api/models/${encodeURIComponent(model.name)}/quarantine/${encodeURIComponent(one.version)}/lift`,
    withVersion: false,
    done: () => `${model.name}: version ${one.version} may be released again`,
  }));
  cell.append(button);
  return cell;
}

function askRollback(model) {
  ask({
    title: `Roll back ${model.name}`,
    effect: model.canary && !model.control
      ? `The canary, version ${model.canary}, loses its traffic, and its release ends.`
      : `The version before ${model.stable} gets all traffic.`,
    go: "Roll back",
    path: `api/models/${encodeURIComponent(model.name)}/rollback`,
    withVersion: true,
    done: (answer) => {
      const late = answer.unwritten ? `; ledger and alias follow later: ${answer.unwritten}` : "";
      return `${model.name}: version ${answer.stable} has all traffic after ${answer.traffic_s} s${late}`;
    },
  });
}

function ask(wanted) {
  order = wanted;
  byId("title").textContent = order.title;
  byId("effect").textContent = order.effect;
  byId("go").textContent = order.go;
  byId("which").hidden = !order.withVersion;
  byId("version").value = "";
  byId("reason").value = "";
  byId("problem").textContent = "";
  byId("dialog").showModal();
}

async function problemOf(response) {
  const body = await response.json().catch(() => ({}));
  const detail = body.error || body.detail || `the server answered with status ${response.status}`;
  return typeof detail === "string" ? detail : JSON.stringify(detail);
}

async function send(event) {
  event.preventDefault();
  byId("go").disabled = true;
  const body = { reason: byId("reason").value };
  if (order.withVersion) body.version = byId("version").value || null;
  try {
    const response = await fetch(order.path, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Taxiway": "console" },
      body: JSON.stringify(body),
    });
    if (!response.ok) throw new Error(await problemOf(response));
    byId("state").textContent = order.done(await response.json());
    byId("dialog").close();
    show(false);
  } catch (error) {
    byId("problem").textContent = error.message;
  } finally {
    byId("go").disabled = false;
  }
}

async function show(speaks = true) {
  try {
    const response = await fetch("api/models", { headers: { Accept: "application/json" } });
    if (!response.ok) throw new Error(await problemOf(response));
    const models = await response.json();
    byId("models").replaceChildren(...models.map(card));
    if (speaks) byId("state").textContent = models.length ? "" : "No model has been released yet.";
  } catch (error) {
    byId("state").textContent = error.message;
  }
}

byId("form").addEventListener("submit", send);
byId("cancel").addEventListener("click", () => byId("dialog").close());
show();
setInterval(() => { if (!document.hidden && !byId("dialog").open) show(); }, EVERY_MS);
