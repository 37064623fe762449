/** Strict JSON, from a file that nobody vouches for, and its values checked for their types. */

import { shortened } from "./errors.js";

/**
 * Parse JSON, and refuse what `JSON.parse` lets through: numbers beyond float64 (`1e999`) and lone
 * surrogates.
 *
 * @param {string} text
 * @returns {unknown}
 * @throws {Error} not strict JSON
 */
export function parseJson(text) {
  return JSON.parse(text, (key, inner) => {
    if (inner === Infinity || inner === -Infinity) throw new Error("a number is beyond float64");
    if (typeof inner === "string" && LONE.test(inner))
      throw new Error("a lone surrogate is not Unicode");
    if (LONE.test(key)) throw new Error("a lone surrogate is not Unicode");
    return inner;
  });
}

const LONE = /\p{Surrogate}/u;

/** @param {unknown} value */
const shown = (value) => (value === undefined ? "nothing" : shortened(JSON.stringify(value), 80));

/** @param {string} name @param {unknown} value @param {string} expected @returns {never} */
export function refuse(name, value, expected) {
  throw new Error(`${name}: ${shown(value)}, expected ${expected}`);
}

/**
 * A check gives a value of the expected type, or throws an error that names it.
 *
 * @template T
 * @typedef {(value: unknown, name: string) => T} Check
 */

/** @type {Check<number>} */
export const number = (value, name) =>
  typeof value === "number" && Number.isFinite(value) ? value : refuse(name, value, "a number");

/** @type {Check<number>} */
export const integer = (value, name) =>
  typeof value === "number" && Number.isInteger(value) && value >= 0
    ? value
    : refuse(name, value, "an integer of at least 0");

/** @type {Check<string>} */
export const string = (value, name) =>
  typeof value === "string" ? value : refuse(name, value, "a string");

/** @type {Check<boolean>} */
export const boolean = (value, name) =>
  typeof value === "boolean" ? value : refuse(name, value, "true or false");

/**
 * @template T
 * @param {Check<T>} check of each item
 * @param {number} least smallest number of items
 * @returns {Check<T[]>}
 */
export const list =
  (check, least = 0) =>
  (value, name) => {
    if (!Array.isArray(value)) return refuse(name, value, "a list");
    if (value.length < least) return refuse(name, value, "a list with values");
    return value.map((item) => check(item, name));
  };

/**
 * @template {readonly string[]} T
 * @param {T} values
 * @returns {Check<T[number]>}
 */
export const oneOf = (values) => (value, name) =>
  values.includes(/** @type {string} */ (value))
    ? /** @type {T[number]} */ (value)
    : refuse(name, value, `one of ${values.join(", ")}`);

/**
 * A value that may be missing or null.
 *
 * @template T
 * @param {Check<T>} check
 * @returns {Check<T | null>}
 */
export const optional = (check) => (value, name) =>
  value === null || value === undefined ? null : check(value, name);

/**
 * A value that may be missing, but not null.
 *
 * @template T
 * @param {Check<T>} check
 * @returns {Check<T | null>}
 */
export const absent = (check) => (value, name) => (value === undefined ? null : check(value, name));

/** @type {Check<Record<string, unknown>>} */
export const fields = (value, name) =>
  typeof value === "object" && value !== null && !Array.isArray(value)
    ? /** @type {Record<string, unknown>} */ (value)
    : refuse(name, value, "an object");

/**
 * An object with the given fields; others are ignored.
 *
 * @template {Record<string, Check<any>>} T
 * @param {T} checks by field
 * @returns {Check<{[K in keyof T]: ReturnType<T[K]>}>}
 */
export const object = (checks) => (value, name) => {
  const given = fields(value, name);
  return /** @type {any} */ (
    Object.fromEntries(
      Object.entries(checks).map(([key, check]) => [
        key,
        check(own(given, key), `${name}: ${key}`),
      ]),
    )
  );
};

/**
 * An object whose fields all pass one check.
 *
 * @template T
 * @param {Check<T>} check
 * @returns {Check<Record<string, T>>}
 */
export const record = (check) => (value, name) =>
  Object.fromEntries(
    Object.entries(fields(value, name)).map(([key, item]) => [key, check(item, `${name}: ${key}`)]),
  );

/**
 * Check that lists and objects are nested at most `depth` deep.
 *
 * @param {unknown} value
 * @param {number} depth
 */
export function plain(value, depth) {
  const items = typeof value === "object" && value !== null ? Object.values(value) : [];
  if (items.length && !depth) throw new Error("JSON that is nested too deeply");
  for (const item of items) plain(item, depth - 1);
}

/** @param {Record<string, unknown>} given @param {string} key */
const own = (given, key) => (Object.hasOwn(given, key) ? given[key] : undefined);
