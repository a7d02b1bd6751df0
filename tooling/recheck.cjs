// Writes recheck's version and its verdict on each pattern of the argument, which is JSON: [{source, flags}, …].
const {checkSync} = require('recheck');
const verdicts = JSON.parse(process.argv[2]).map(({source, flags}) => checkSync(source, flags, {timeout: 60000}));
process.stdout.write(JSON.stringify({version: require('recheck/package.json').version, verdicts}));
