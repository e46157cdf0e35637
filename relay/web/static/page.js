// What every page of calls begins with: texts, theme, and the worker that makes it installable.

import { tab_storage } from "./tab_storage.js";
import { addTexts, setUpLanguages } from "./text.js";
import { TEXTS } from "./text_calls.js";
import { setUpTheme } from "./theme.js";

export function setUpPage() {
  addTexts(TEXTS);
  setUpLanguages();
  setUpTheme(document.getElementById("theme"));
  registerWorker().catch(() => {
    // Private windows have none; the page is only not there without a network then.
  });
}

const CAME_BY_LINK = location.hash.length > 1;

/** Show one of the page's views and hide the others. */
export function showView(name) {
  document.body.dataset.view = name;
  for (const view of document.querySelectorAll("[data-view-name]")) {
    view.hidden = view.dataset.viewName !== name;
  }
}

/** What stood behind # in the address, which is taken out of it; after a reload what was taken
 * before. Null where there is nothing. */
export function takeFragment(kept_under) {
  const fragment = location.hash.slice(1);
  if (fragment) {
    history.replaceState(null, "", location.pathname + location.search);
    tab_storage.setItem(kept_under, fragment);
    return fragment;
  }
  if (wasReloaded()) return tab_storage.getItem(kept_under);
  tab_storage.removeItem(kept_under);
  return null;
}

/** Whether the page was there before, in this tab, and is to go on where it was. One that has not
 * taken the fragment out of its address yet has never begun. */
export function wasReloaded() {
  if (CAME_BY_LINK) return false;
  return performance.getEntriesByType("navigation")[0]?.type === "reload";
}

/** Whether this browser's user wants no address told but the relay's; remembered as `wanted`. */
export function hidesAddress(wanted) {
  if (wanted !== undefined) kept("montana-relay-only", wanted ? "yes" : null);
  return kept("montana-relay-only") === "yes";
}

/** A value that this browser keeps, or null; null forgets it. */
export function kept(name, value) {
  try {
    if (value === undefined) return localStorage.getItem(name);
    if (value === null) localStorage.removeItem(name);
    else localStorage.setItem(name, value);
  } catch {
    // Storage may be forbidden.
  }
  return null;
}

async function registerWorker() {
  if (!navigator.serviceWorker) return;
  const url = "/worker.js";
  const policy = window.trustedTypes?.createPolicy("montana-worker", {
    createScriptURL: () => url,
  });
  await navigator.serviceWorker.register(policy ? policy.createScriptURL(url) : url);
}
