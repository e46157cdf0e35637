// Elements, made without a line of HTML: what people say is text and can't become anything else.

import { text } from "./text.js";

const SVG = "http://www.w3.org/2000/svg";

/** An element. Of `properties`, `text`, `label`, `tip` and `placeholder` are keys of texts and
 * follow the language, `on` holds listeners; the rest are attributes, of which null and false are
 * left out. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") {
      for (const [type, listener] of Object.entries(value))
        element.addEventListener(type, listener);
    } else if (name === "text") setText(element, value);
    else if (name === "label") setLabel(element, value);
    else if (name === "tip") setTip(element, value);
    else if (name === "placeholder") {
      element.dataset.placeholder = value;
      element.placeholder = text(value);
    } else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Say the text `key` in the element, in whatever language is chosen later as well. */
export function setText(element, key) {
  element.dataset.text = key;
  say(element, text(key));
}

export function setLabel(element, key) {
  element.dataset.label = key;
  element.setAttribute("aria-label", text(key));
}

export function setTip(element, key) {
  element.dataset.tip = key;
  element.title = text(key);
}

/** Set what an element says, if that is something else: a screen reader is told of each change. */
export function say(element, said) {
  if (element.textContent !== said) element.textContent = said;
}

/** Set or remove an attribute, if that changes anything. */
export function setAttribute(element, name, value) {
  if (value === null || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Have `container` hold one element for each of `items` in their order. Those that are there
 * already are kept, with their focus and whatever they play, and brought up to date. */
export function syncList(container, items, keyOf, create, update) {
  const before = new Map([...container.children].map((child) => [child.dataset.key, child]));
  let next = container.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    let element = before.get(key);
    before.delete(key);
    if (element === undefined) {
      element = create(item);
      element.dataset.key = key;
    }
    if (element === next) next = next.nextElementSibling;
    else container.insertBefore(element, next);
    update?.(element, item);
  }
  for (const element of before.values()) element.remove();
}
