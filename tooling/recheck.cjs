// Writes recheck's version and its verdict on each pattern of the argument, which is JSON: [{source, flags}, …].
const {checkSync} = require('recheck');
// What its automaton cannot decide, it fuzzes: by the same seed each time, so that the verdict is the same each time.
const options = {timeout: 60000, randomSeed: 1};
const verdicts = JSON.parse(process.argv[2]).map(({source, flags}) => checkSync(source, flags, options));
process.stdout.write(JSON.stringify({version: require('recheck/package.json').version, verdicts}));
