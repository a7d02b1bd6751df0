// What ESLint checks, whatever comments in a file excuse: tooling/sast.py runs it.
const js = require("@eslint/js");
const globals = require("globals");

// What makes elements of text: a title that somebody typed would run.
const MARKUP = ["innerHTML", "outerHTML", "insertAdjacentHTML", "setHTMLUnsafe", "createContextualFragment", "srcdoc"];

module.exports = [
  { linterOptions: { noInlineConfig: true, reportUnusedDisableDirectives: "off" } },
  js.configs.recommended,
  {
    rules: {
      eqeqeq: "error",
      "no-eval": "error",
      "no-implied-eval": "error",
      "no-new-func": "error",
      "no-restricted-properties": [
        "error",
        ...MARKUP.map((property) => ({ property, message: "set textContent, or make elements" })),
        ...["write", "writeln"].map((property) => ({ object: "document", property, message: "make elements" })),
      ],
      "no-script-url": "error",
      "no-self-compare": "error",
      "no-shadow-restricted-names": "error",
      "no-unused-expressions": ["error", { allowShortCircuit: true, allowTernary: true }],
      "no-unused-vars": ["error", { ignoreRestSiblings: true }],
      "no-var": "error",
      "prefer-const": "error",
    },
  },
  { files: ["**/*.js"], languageOptions: { sourceType: "module", globals: globals.browser } },
  { files: ["**/worker.js"], languageOptions: { sourceType: "script", globals: globals.serviceworker } },
  { files: ["**/*.cjs"], languageOptions: { sourceType: "commonjs", globals: globals.node } },
];
