// The texts in the page's language, and moments as that language writes them. Another language is one more file.
const language = document.documentElement.lang;
export const { texts } = await import(`./texts.${language}.js`);

// British English writes moments in another way than American.
const region = navigator.languages.find((one) => one.split("-")[0] === language) ?? language;
const format = new Intl.DateTimeFormat(region, { dateStyle: "medium", timeStyle: "short" });
export const moment = (time) => format.format(new Date(time));
const weekday = new Intl.DateTimeFormat(region, { weekday: "short", timeZone: "UTC" });
export const weekdays = [1, 2, 3, 4, 5, 6, 7].map((day) => weekday.format(Date.UTC(2024, 0, day))); // from Monday on
export const number = (value, options) => new Intl.NumberFormat(region, options).format(value);
