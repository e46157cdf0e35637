// What the pages say, in English and Russian; people choose, else the browser's language counts.

const TEXTS = {
  en: {
    title: "Montana · check",
    verdict_idle: "Does a call get through?",
    detail_idle:
      "Two connections in this page call each other through the relay, and only through it.",
    verdict_running: "Calling…",
    detail_credentials: "Asking the node for credentials.",
    detail_gathering: "Asking the relay for addresses.",
    detail_connecting: "Both sides have a relayed address; connecting.",
    detail_measuring: "Connected. Measuring for {seconds} seconds.",
    verdict_pass: "Calls get through",
    detail_pass: "Audio, video and data passed through the relay.",
    detail_pass_without_audio:
      "Video and data passed through the relay. This browser makes no sound before somebody " +
      "clicks: check again for the sound.",
    detail_pass_without_video:
      "Audio and data passed through the relay. A page in the background makes no picture: check " +
      "again with this page in front.",
    verdict_fail: "Calls don't get through",
    verdict_lossy: "Calls get through badly",
    verdict_broke_off: "The call broke off after {seconds} s",
    verdict_untested: "Nothing has been tested yet",
    ms: "{value} ms",
    kbps: "{value} kbit/s",
    figure_connect: "Connected in",
    figure_round_trip: "Round trip",
    figure_loss: "Lost",
    figure_bitrate: "Received",
    connect_parts: "{gather} ms of it for addresses",
    round_trip_worst: "at worst {worst} ms",
    loss_parts: "{lost} of {sent} packets",
    bitrate_sent: "sent {sent} kbit/s",
    plot_round_trip: "Round trip, ms",
    plot_loss: "Lost, %",
    plot_bitrate: "Received, kbit/s",
    picture: "Received picture",
    path_title: "The way",
    column_side: "Side",
    column_kind: "Kind",
    column_address: "Address",
    column_server: "By server",
    column_after: "After",
    side_a: "caller",
    side_b: "callee",
    no_candidates: "None yet.",
    form_title: "Which server",
    form_node: "This node",
    form_other: "Another TURN server",
    form_url: "URL",
    form_user: "User name",
    form_password: "Password",
    form_go: "Check",
    form_again: "Check again",
    privacy:
      "Nothing is recorded: the picture and the tone are made by this page, and the figures stay in it.",
    fail_no_webrtc: "This browser has no WebRTC, or it is switched off.",
    advice_no_webrtc: "Try another browser, or allow WebRTC in its settings.",
    fail_link_needed: "This page needs a link.",
    advice_link_needed: "The operator prints one with `montana check link`.",
    fail_link_expired: "This link has expired.",
    advice_link_expired:
      "Links are good for some minutes. The operator prints a new one with `montana check link`.",
    fail_link_invalid: "This link is not one of this node's, or it is incomplete.",
    advice_link_invalid: "Open the link as it was printed, with all that follows the # sign.",
    fail_too_often: "Too many checks from this address.",
    advice_too_often: "Wait a minute, then check again.",
    fail_no_secret: "This node can't make credentials.",
    advice_no_secret: 'Add `secrets = ["…"]` to `[turn]` in its configuration.',
    fail_node_away: "The node does not answer.",
    advice_node_away: "Is it still running? Reload the page when it is.",
    fail_url: "The browser does not take this server's URL.",
    advice_url: "It looks like `turn:turn.example.org:3478?transport=udp`.",
    fail_credentials: "The server refuses the user name or the password (401).",
    advice_credentials:
      "Check both. Time-limited credentials need the same secret, and clocks that agree.",
    fail_quota: "The server has no allocation left for this user (486) or at all (508).",
    advice_quota: "Raise the limits in its configuration, or wait until others have ended.",
    fail_refused: "The server answers with error {code}.",
    advice_refused: "Its log may say why: {reason}",
    fail_unreachable: "The server does not answer.",
    advice_unreachable:
      "Is it running? Does a firewall let {server} through, UDP above all, and the relay ports?",
    advice_loopback:
      "Browsers leave out this machine's own address. Start Chromium with " +
      "`--allow-loopback-in-peer-connection`, or the node with `montana up --lan`.",
    fail_one_sided: "Only one side got a relayed address.",
    advice_one_sided: "The server may allow one allocation a user; raise that limit.",
    fail_forbidden: "Both sides have relayed addresses, and the relay does not connect them.",
    advice_forbidden:
      "It may forbid itself as a peer (403), or be told a wrong external address " +
      "(`turn.external`), or a firewall keeps its relay ports closed.",
    fail_silent: "The connection stands, and nothing arrives.",
    advice_silent: "Something on the way drops larger packets or a flow's later ones.",
    fail_lossy: "More than {percent} % of the packets are lost.",
    advice_lossy: "The way is overloaded, or the node's socket buffers are too small.",
    fail_broke_off: "Nothing has come through since. The figures are those until then.",
    advice_broke_off:
      "The server has ended the relay: look at its log. On a metered node the account may have no " +
      "balance left; otherwise it may have been restarted, or the way to it was cut.",
    plot_end: "broke off",
    fail_internal: "The browser reports: {reason}",
    advice_internal: "Reload the page; try another browser.",
  },
  ru: {
    title: "Montana · проверка",
    verdict_idle: "Проходят ли звонки?",
    detail_idle:
      "Два соединения на этой странице звонят друг другу через ретранслятор, и только через него.",
    verdict_running: "Звоним…",
    detail_credentials: "Запрашиваем у узла учётные данные.",
    detail_gathering: "Запрашиваем адреса у ретранслятора.",
    detail_connecting: "У обеих сторон есть адрес ретранслятора; соединяем.",
    detail_measuring: "Соединено. Измеряем {seconds} с.",
    verdict_pass: "Звонки проходят",
    detail_pass: "Звук, видео и данные прошли через ретранслятор.",
    detail_pass_without_audio:
      "Видео и данные прошли через ретранслятор. Без щелчка этот браузер не создаёт звук: " +
      "проверьте ещё раз, чтобы проверить и его.",
    detail_pass_without_video:
      "Звук и данные прошли через ретранслятор. В фоне страница не создаёт картинку: проверьте " +
      "ещё раз, не уходя с неё.",
    verdict_fail: "Звонки не проходят",
    verdict_lossy: "Звонки проходят плохо",
    verdict_broke_off: "Звонок оборвался через {seconds} с",
    verdict_untested: "Пока ничего не проверено",
    ms: "{value} мс",
    kbps: "{value} кбит/с",
    figure_connect: "Соединено за",
    figure_round_trip: "Туда и обратно",
    figure_loss: "Потеряно",
    figure_bitrate: "Принято",
    connect_parts: "из них {gather} мс на адреса",
    round_trip_worst: "в худшем случае {worst} мс",
    loss_parts: "{lost} из {sent} пакетов",
    bitrate_sent: "отправлено {sent} кбит/с",
    plot_round_trip: "Туда и обратно, мс",
    plot_loss: "Потеряно, %",
    plot_bitrate: "Принято, кбит/с",
    picture: "Принятая картинка",
    path_title: "Путь",
    column_side: "Сторона",
    column_kind: "Вид",
    column_address: "Адрес",
    column_server: "Через сервер",
    column_after: "Спустя",
    side_a: "звонящий",
    side_b: "отвечающий",
    no_candidates: "Пока нет.",
    form_title: "Какой сервер",
    form_node: "Этот узел",
    form_other: "Другой TURN-сервер",
    form_url: "URL",
    form_user: "Имя пользователя",
    form_password: "Пароль",
    form_go: "Проверить",
    form_again: "Проверить ещё раз",
    privacy:
      "Ничего не записывается: картинку и звук создаёт эта страница, измерения остаются в ней.",
    fail_no_webrtc: "В этом браузере нет WebRTC, или он выключен.",
    advice_no_webrtc: "Попробуйте другой браузер или разрешите WebRTC в настройках.",
    fail_link_needed: "Этой странице нужна ссылка.",
    advice_link_needed: "Оператор получит её командой `montana check link`.",
    fail_link_expired: "Срок этой ссылки истёк.",
    advice_link_expired:
      "Ссылки действуют несколько минут. Оператор получит новую командой `montana check link`.",
    fail_link_invalid: "Ссылка не от этого узла или неполная.",
    advice_link_invalid: "Откройте ссылку целиком, вместе со всем, что стоит после знака #.",
    fail_too_often: "Слишком много проверок с этого адреса.",
    advice_too_often: "Подождите минуту и проверьте снова.",
    fail_no_secret: "Этот узел не может выдать учётные данные.",
    advice_no_secret: 'Добавьте `secrets = ["…"]` в раздел `[turn]` его настроек.',
    fail_node_away: "Узел не отвечает.",
    advice_node_away: "Он ещё работает? Обновите страницу, когда он запустится.",
    fail_url: "Браузер не принимает такой URL сервера.",
    advice_url: "Он выглядит так: `turn:turn.example.org:3478?transport=udp`.",
    fail_credentials: "Сервер не принимает имя или пароль (401).",
    advice_credentials:
      "Проверьте и то, и другое. Временным данным нужны общий секрет и верные часы.",
    fail_quota: "У сервера не осталось мест для этого пользователя (486) или вообще (508).",
    advice_quota: "Поднимите пределы в его настройках или подождите, пока закончат другие.",
    fail_refused: "Сервер отвечает ошибкой {code}.",
    advice_refused: "Возможно, причина есть в его журнале: {reason}",
    fail_unreachable: "Сервер не отвечает.",
    advice_unreachable:
      "Он запущен? Пропускает ли брандмауэр {server}, прежде всего UDP, и порты ретрансляции?",
    advice_loopback:
      "Браузеры не используют собственный адрес машины. Запустите Chromium с " +
      "`--allow-loopback-in-peer-connection` или узел командой `montana up --lan`.",
    fail_one_sided: "Адрес ретранслятора получила только одна сторона.",
    advice_one_sided: "Возможно, сервер даёт пользователю одно место; поднимите этот предел.",
    fail_forbidden: "У обеих сторон есть адреса, но ретранслятор их не соединяет.",
    advice_forbidden:
      "Он может запрещать себя как собеседника (403), считать внешним не тот адрес " +
      "(`turn.external`), или брандмауэр закрывает порты ретрансляции.",
    fail_silent: "Соединение есть, но ничего не приходит.",
    advice_silent: "Что-то в пути отбрасывает большие пакеты или обрывает поток.",
    fail_lossy: "Теряется больше {percent} % пакетов.",
    advice_lossy: "Путь перегружен, или буферы сокетов узла слишком малы.",
    fail_broke_off: "С тех пор ничего не приходит. Показаны измерения до обрыва.",
    advice_broke_off:
      "Сервер прекратил ретрансляцию: посмотрите его журнал. На платном узле на счёте могло не " +
      "остаться средств; иначе сервер могли перезапустить, или прервался путь к нему.",
    plot_end: "обрыв",
    fail_internal: "Браузер сообщает: {reason}",
    advice_internal: "Обновите страницу или попробуйте другой браузер.",
  },
};
const KEPT = "montana-language";
const listeners = [];
let language = initialLanguage();

function initialLanguage() {
  let kept = null;
  try {
    kept = localStorage.getItem(KEPT);
  } catch {
    // Storage may be forbidden; the browser's language is good enough then.
  }
  if (kept in TEXTS) return kept;
  return (navigator.language || "en").toLowerCase().startsWith("ru") ? "ru" : "en";
}

/** Let the page say what stands in `more` as well: `{en: {key: text}, ru: {key: text}}`. */
export function addTexts(more) {
  for (const name of Object.keys(TEXTS)) Object.assign(TEXTS[name], more[name]);
}

/** "en" or "ru", as it is now. */
export function currentLanguage() {
  return language;
}

/** The text of `key`; `{name}` is replaced by `values.name`. */
export function text(key, values = {}) {
  const template = TEXTS[language][key] ?? TEXTS.en[key];
  return template.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/** `value` as people write it, with that many `digits` after the point; without, what it has. */
export function number(value, digits) {
  const exactly = { minimumFractionDigits: digits, maximumFractionDigits: digits };
  return value.toLocaleString(language, digits === undefined ? {} : exactly);
}

/** Say everything in the page again when somebody chooses another language. */
export function onLanguage(listener) {
  listeners.push(listener);
}

/** Fill every element that has `data-text`, `data-label`, `data-tip` (what shows when the pointer
 * rests) or `data-placeholder`, and let the language buttons work. */
export function setUpLanguages() {
  for (const button of document.querySelectorAll("[data-language]")) {
    button.addEventListener("click", () => {
      language = button.dataset.language;
      try {
        localStorage.setItem(KEPT, language);
      } catch {
        // It is forgotten with the page.
      }
      say();
    });
  }
  say();
}

function say() {
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll("[data-text]")) {
    element.textContent = text(element.dataset.text);
  }
  for (const element of document.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", text(element.dataset.label));
  }
  for (const element of document.querySelectorAll("[data-tip]")) {
    element.title = text(element.dataset.tip);
  }
  for (const element of document.querySelectorAll("[data-placeholder]")) {
    element.placeholder = text(element.dataset.placeholder);
  }
  for (const button of document.querySelectorAll("[data-language]")) {
    button.setAttribute("aria-pressed", String(button.dataset.language === language));
  }
  for (const listener of listeners) listener();
}
