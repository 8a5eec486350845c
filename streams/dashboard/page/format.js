// Formats numbers and times.

export const NOTHING = "–";

const clockForm = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const minuteForm = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const dayForm = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
const decimals = [0, 1, 2].map(
  (digits) => new Intl.NumberFormat("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits }),
);

// Says in which time zone all times of the page are.
const zonedForm = new Intl.DateTimeFormat("en-GB", {
  hour: "2-digit", minute: "2-digit", second: "2-digit", timeZoneName: "short",
});

export const zonedClock = (ms) => zonedForm.format(ms);
export const clock = (ms) => clockForm.format(ms);
export const minute = (ms) => minuteForm.format(ms);

// The time; with the day when it is not today.
export function moment(ms, nowMs) {
  const today = new Date(ms).toDateString() === new Date(nowMs).toDateString();
  return today ? clock(ms) : dayForm.format(ms);
}

function number(value, digits) {
  return value === null || value === undefined ? NOTHING : decimals[digits].format(value);
}

export const rate = (value) => number(value, value >= 100 ? 0 : 1);
export const milliseconds = (value) => number(value, value >= 100 ? 0 : value >= 10 ? 1 : 2);
export const share = (value) => (value === null || value === undefined ? NOTHING : `${number(value * 100, 1)}%`);

// Small error shares matter: zero and almost zero look different.
export function errorShare(value) {
  if (value === null || value === undefined) return NOTHING;
  if (value === 0) return "0%";
  return value < 0.0001 ? "<0.01%" : `${number(value * 100, value < 0.1 ? 2 : 1)}%`;
}

export const percent = (value) => `${Number(value.toFixed(2))}%`;

export function seconds(value) {
  if (value < 10) return `${value.toFixed(1)} s`;
  return value < 120 ? `${Math.round(value)} s` : `${Math.round(value / 60)} min`;
}
