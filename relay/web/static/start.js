import { setUpLanguages } from "./text.js";

setUpLanguages();
