// After a room or call: why it is over, what it has come to, and what one can do now.

import { make, setText } from "./dom.js";
import { explainEnd } from "./explain.js";
import { clock, money, shortAddress } from "./format.js";
import { icon } from "./icons.js";
import { text } from "./text.js";

/** Fill `root`. `actions`: elements such as links and buttons, the first of them the likeliest. */
export function showOver(root, { over, receipt }, actions) {
  const { title, advice } = explainEnd(receipt?.reason ?? over);
  const card = make(
    "section",
    { class: "card over" },
    make("span", { class: "over-mark" }, icon(receipt ? "clock" : "door")),
    make("h1", { tabindex: "-1" }, title),
    make("p", { class: "soft" }, advice),
  );
  if (receipt) card.append(receiptTable(receipt));
  card.append(make("div", { class: "acts" }, ...actions));
  root.replaceChildren(card);
  card.querySelector("h1").focus();
}

function receiptTable({ call, cost, balance }) {
  const rows = [
    ["receipt_kind", text(`kind_${call.kind}`)],
    ["receipt_duration", clock(call.seconds)],
  ];
  if (call.other)
    rows.push([call.outgoing ? "receipt_to" : "receipt_from", shortAddress(call.other)]);
  if (cost !== null) rows.push(["receipt_cost", money(cost)]);
  if (balance !== null) rows.push(["receipt_balance", money(balance)]);
  rows.push(["receipt_id", call.id]);
  const list = make("dl", { class: "receipt" });
  for (const [key, said] of rows) {
    const term = make("dt");
    setText(term, key);
    list.append(make("div", {}, term, make("dd", {}, said)));
  }
  return list;
}
