// The page of `edgegpt serve`: a chat where the bundle has a template, else texts that go on.

const at = (id) => document.getElementById(id);
const turns = []; // {role, content}, of a chat; of a completion, one prompt and its text
let model = null;
let running = null;

const headers = () => ({
  "Content-Type": "application/json",
  ...(at("key").value && { Authorization: `Bearer ${at("key").value}` }),
});

async function open() {
  const answer = await fetch("page.json", { headers: headers() });
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error.message);
  model = found;
  at("name").textContent = document.title = model.name;
  const proof = at("proof");
  proof.textContent = `${model.precision} on ${model.engine}, context ${model.context}; `;
  const verdict = document.createElement("span");
  verdict.className = model.proved ? "good" : "bad";
  verdict.textContent = model.proved ? "proved on this engine: PASS" : "not proved on this engine";
  proof.append(verdict, model.proved ? `, ${model.proved.slice(0, 10)}; ` : "; ", link("receipts"));
  at("words-label").textContent = model.chat ? "Message" : "Prompt";
  at("send").textContent = model.chat ? "Send" : "Write";
  at("system").parentElement.hidden = !model.chat;
  if (model.temperature !== null) at("temperature").value = model.temperature;
}

function link(name) {
  const found = document.createElement("a");
  found.href = `${name}.json`;
  found.textContent = name;
  return found;
}

function settings() {
  const number = (id) => (at(id).value === "" ? undefined : Number(at(id).value));
  return {
    max_tokens: number("max_tokens"),
    temperature: number("temperature"),
    top_k: number("top_k"),
    top_p: number("top_p"),
    seed: number("seed"),
    stop: at("stops").value || undefined,
    stream: true,
  };
}

function card(role, text) {
  const item = document.createElement("li");
  const who = document.createElement("div");
  who.className = "who";
  who.append(Object.assign(document.createElement("span"), { textContent: role }));
  item.append(who);
  if (role === "you") {
    item.className = "mine";
    const edit = Object.assign(document.createElement("button"), {
      type: "button",
      textContent: "Edit",
    });
    const place = turns.length;
    edit.onclick = () => goBack(place);
    who.append(edit);
  }
  item.append(text);
  at("texts").append(item);
  return item;
}

// Take back a turn and all after it, to write them anew.
function goBack(place) {
  if (running) return;
  at("words").value = turns[place].content;
  turns.length = place;
  while (at("texts").children.length > place) at("texts").lastChild.remove();
  at("again").disabled = true;
  at("words").focus();
}

function token(text, logprobs) {
  const found = document.createElement("span");
  found.append(text);
  if (!logprobs || logprobs.length === 0) return found;
  found.className = "token";
  found.tabIndex = 0;
  const rivals = document.createElement("span");
  rivals.className = "rivals";
  for (const { name, value } of logprobs) {
    const line = document.createElement(name === text ? "b" : "span");
    line.textContent = `${(100 * Math.exp(value)).toFixed(1).padStart(5)} %  ${JSON.stringify(name)}\n`;
    rivals.append(line);
  }
  found.append(rivals);
  return found;
}

// Add to what the model thinks before it answers; returns where that stands.
function think(item, place, text, logprobs) {
  if (!place) {
    place = Object.assign(document.createElement("div"), { className: "thoughts" });
    place.dataset.text = "";
    place.setAttribute("role", "note");
    place.setAttribute("aria-label", "Thoughts");
    item.append(place);
  }
  place.dataset.text += text;
  place.append(token(text, logprobs));
  return place;
}

// The candidates of each token in an event, in the form of either endpoint.
function candidates(choice) {
  const told = choice.logprobs;
  if (!told) return [];
  if (model.chat) {
    return told.content.map((one) =>
      one.top_logprobs.map((other) => ({ name: other.token, value: other.logprob })),
    );
  }
  return (told.top_logprobs ?? []).map((one) =>
    Object.entries(one).map(([name, value]) => ({ name, value })),
  );
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
      const data = text.slice(0, end).replace("data: ", "");
      text = text.slice(end + 2);
      if (data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

function request() {
  const own = { ...settings(), model: model.name };
  if (!model.chat) return { path: "v1/completions", body: { ...own, prompt: turns[0].content, logprobs: 5 } };
  const system = at("system").value;
  const messages = [...(system ? [{ role: "system", content: system }] : []), ...turns];
  return { path: "v1/chat/completions", body: { ...own, messages, logprobs: true, top_logprobs: 5 } };
}

async function write() {
  const { path, body } = request();
  running = new AbortController();
  busy(true);
  const item = card(model.chat ? "model" : "text", "");
  if (!model.chat) {
    item.append(Object.assign(document.createElement("span"), { className: "prompt", textContent: body.prompt }));
  }
  const begin = performance.now();
  let first = 0;
  let count = 0;
  let text = "";
  let thoughts = null;
  let reason = "stopped";
  try {
    const answer = await fetch(path, {
      method: "POST",
      headers: headers(),
      body: JSON.stringify(body),
      signal: running.signal,
    });
    if (!answer.ok) throw new Error((await answer.json()).error.message);
    for await (const event of events(answer)) {
      if (event.error) throw new Error(event.error.message);
      const choice = event.choices[0];
      const piece = (model.chat ? choice.delta.content : choice.text) ?? "";
      const thought = choice.delta?.reasoning_content ?? "";
      const told = candidates(choice);
      if (told.length || piece || thought) first ||= performance.now() - begin;
      count += told.length;
      text += piece;
      if (thought) thoughts = think(item, thoughts, thought, told.at(-1));
      if (piece) item.append(token(piece, told.at(-1)));
      if (choice.finish_reason) reason = choice.finish_reason;
      const seconds = (performance.now() - begin - first) / 1000;
      const pace = count > 1 && seconds > 0 ? `${((count - 1) / seconds).toFixed(1)} tokens/s` : "";
      tell(`${count} tokens, the first after ${first.toFixed(0)} ms, ${pace}`);
    }
    tell(`${at("status").textContent}; ${reason === "length" ? "that is all that was asked for" : reason}`);
  } catch (error) {
    if (error.name === "AbortError") tell(`${at("status").textContent}; stopped`);
    else item.append(Object.assign(document.createElement("div"), { className: "error", textContent: error.message }));
  }
  turns.push({ role: "assistant", content: text, ...(thoughts && { reasoning_content: thoughts.dataset.text }) });
  running = null;
  busy(false);
}

const tell = (text) => (at("status").textContent = text);

function busy(is) {
  at("send").disabled = is;
  at("stop").disabled = !is;
  at("again").disabled = is || turns.length === 0;
}

at("form").onsubmit = async (event) => {
  event.preventDefault();
  const words = at("words").value;
  if (running || words === "") return;
  try {
    if (!model) await open();
  } catch (error) {
    tell(error.message);
    return;
  }
  if (!model.chat) clear();
  if (model.chat) card("you", words);
  turns.push({ role: "user", content: words });
  if (model.chat) at("words").value = "";
  await write();
};
at("stop").onclick = () => running?.abort();
at("again").onclick = () => {
  turns.pop();
  at("texts").lastChild.remove();
  write();
};
function clear() {
  turns.length = 0;
  at("texts").replaceChildren();
  tell("");
  busy(false);
}
at("clear").onclick = () => running || clear();
at("words").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && (model?.chat || event.ctrlKey)) {
    event.preventDefault();
    at("form").requestSubmit();
  }
};
open().catch((error) => tell(error.message));
