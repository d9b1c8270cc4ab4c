// What all parts of the page use.

export const byId = (id) => document.getElementById(id);

/** An element with text, attributes and children. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "onclick") element.addEventListener("click", value);
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

/**
 * Has a list show items, { key, same, build }. One whose `same` has not changed stays as it is, with its focus, and so that a
 * click on it is one.
 */
export function keep(list, items) {
  const before = new Map([...list.children].map((one) => [one.dataset.key, one]));
  const now = items.map(({ key, same, build }) => {
    const old = before.get(String(key));
    if (old && old.dataset.same === same) return old;
    const made = build();
    made.dataset.key = key;
    made.dataset.same = same;
    return made;
  });
  if (now.length !== list.children.length || now.some((one, i) => one !== list.children[i])) list.replaceChildren(...now);
}

/** Shows what went wrong, or nothing any more. */
export function problem(text) {
  const box = byId("problem");
  box.textContent = text || "";
  box.hidden = !text;
}

/** Asks the server. An error is in its words. */
export async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { credentials: "same-origin", ...options });
  } catch {
    throw new Error("The server does not answer; is `ddpm serve` still running?");
  }
  const text = await answer.text();
  let said = null;
  try { said = text ? JSON.parse(text) : null; } catch { /* not JSON: an error below, or of no interest */ }
  if (!answer.ok) throw new Error((said && said.error) || text || `the server says ${answer.status}`);
  return said;
}

/** Runs what a click or a key begins, and shows its errors. */
export function guarded(work) {
  return async (...given) => {
    problem("");
    try { await work(...given); } catch (error) { problem(error.message); }
  };
}

/** "1 image", "2 images". */
export const plural = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
