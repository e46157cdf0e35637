// Loads a page anew whose scripts or styles have not come: its node was replaced while it loaded, or
// did not answer for a moment. Once, and not when the page has begun all the same. It is no module,
// for those are what may be missing.

{
  const MARK = "montana-loaded-anew";
  const ONCE_IN_MS = 60_000;
  const TRIES = 20;
  const TRY_EVERY_MS = 1000;
  let is_waiting = false;

  /** Whether the page was loaded anew a moment ago; notes that it will be. */
  const isRepeated = () => {
    const before_ms = Number(sessionStorage.getItem(MARK));
    sessionStorage.setItem(MARK, String(Date.now()));
    return Math.abs(Date.now() - before_ms) < ONCE_IN_MS;
  };

  const isThere = async () => {
    try {
      return (await fetch(location.pathname, { cache: "no-store" })).ok;
    } catch {
      return false;
    }
  };

  const loadAnew = async () => {
    for (let count = 0; count < TRIES; count += 1) {
      if (await isThere()) {
        const { phase, verdict } = document.documentElement.dataset;
        if (!phase && !verdict && !isRepeated()) location.reload();
        return;
      }
      await new Promise((resolve) => setTimeout(resolve, TRY_EVERY_MS));
    }
  };

  // What can't be loaded is told to its element alone, and to those who listen on the way there.
  window.addEventListener(
    "error",
    ({ target }) => {
      if (is_waiting || !(target?.src ?? target?.href ?? "").includes("/static/")) return;
      if (!["SCRIPT", "LINK"].includes(target.tagName)) return;
      is_waiting = true;
      loadAnew().catch(() => {
        // Without storage nothing tells how often it was loaded: then it is not done at all.
      });
    },
    true,
  );
}
