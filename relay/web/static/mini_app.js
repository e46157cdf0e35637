// The page as a Mini App: what Telegram's clients tell it behind # in its address, and by events
// (core.telegram.org/bots/webapps; there without their script, which no other site may load here).

const WEB_CLIENT = "https://web.telegram.org";
const DARK_LUMINANCE = 0.5;

/** A page that Telegram has opened. */
export class MiniApp {
  /** Of what stood behind #; null where no client of Telegram's has written it. */
  static of(fragment) {
    const told = new URLSearchParams(fragment ?? "");
    return told.get("tgWebAppData") ? new MiniApp(fragment, told) : null;
  }

  constructor(fragment, told) {
    this.fragment = fragment;
    this.init_data = told.get("tgWebAppData");
    /** Of a side of a call, where another page of ours has written it (`fragmentFor`). */
    this.secret = told.get("secret");
    /** What a link of the form t.me/BOT/APP?startapp=... has named. */
    this.start_param =
      told.get("tgWebAppStartParam") ??
      new URLSearchParams(this.init_data).get("start_param") ??
      "";
    this.#listen();
    this.#showTheme(parsed(told.get("tgWebAppThemeParams")));
    document.documentElement.dataset.telegram = "";
  }

  /** There is something to see: the client takes its own picture away. */
  ready() {
    post("web_app_ready");
    post("web_app_expand");
  }

  /** What stands behind # in the address of a page of ours that goes on as this Mini App. */
  fragmentFor(secret) {
    return `${this.fragment}&${new URLSearchParams({ secret })}`;
  }

  close() {
    post("web_app_close");
  }

  /** Open a link outside of Telegram. */
  openLink(url) {
    post("web_app_open_link", { url });
  }

  #listen() {
    const receive = (type, data) => {
      if (type === "theme_changed") this.#showTheme(data?.theme_params);
    };
    // How the apps call it, and how the web client does, whose frame this is.
    window.Telegram = { WebView: { receiveEvent: receive } };
    window.addEventListener("message", ({ source, origin, data }) => {
      if (source !== window.parent || origin !== WEB_CLIENT) return;
      const event = parsed(data);
      receive(event?.eventType, event?.eventData);
    });
  }

  #showTheme(theme) {
    const colour = /^#([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})$/i.exec(theme?.bg_color ?? "");
    if (!colour) return;
    const [red, green, blue] = colour.slice(1).map((part) => parseInt(part, 16) / 255);
    const luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    document.documentElement.dataset.theme = luminance < DARK_LUMINANCE ? "dark" : "light";
  }
}

function post(type, data = {}) {
  if (window.TelegramWebviewProxy?.postEvent) {
    window.TelegramWebviewProxy.postEvent(type, JSON.stringify(data));
  } else if (typeof window.external?.notify === "function") {
    window.external.notify(JSON.stringify({ eventType: type, eventData: data }));
  } else if (window.parent !== window) {
    window.parent.postMessage(JSON.stringify({ eventType: type, eventData: data }), WEB_CLIENT);
  }
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
