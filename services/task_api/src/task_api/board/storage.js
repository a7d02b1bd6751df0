// What this browser keeps: changes that the service has not confirmed yet, and the tasks as they were last,
// with the place in the feed of changes that they are of.
const NAME = "board";

let opened;

function open() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("changes", { keyPath: "number", autoIncrement: true });
      request.result.createObjectStore("tasks");
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opened;
}

// Runs `work` over a store in one transaction; returns what its request returned, once that is kept for good.
async function within(store, mode, work) {
  const database = await open();
  return new Promise((resolve, reject) => {
    const transaction = database.transaction(store, mode, { durability: "strict" });
    let result;
    work(transaction.objectStore(store), (value) => (result = value));
    transaction.oncomplete = () => resolve(result);
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
}

const read = (store, request) =>
  within(store, "readonly", (opened, done) => {
    request(opened).onsuccess = (event) => done(event.target.result);
  });

export const changes = {
  all: () => read("changes", (store) => store.getAll()),
  // Edits all of them in one transaction: `edit` gets the list and returns { put, remove, add }.
  edit: (edit) =>
    within("changes", "readwrite", (store, done) => {
      store.getAll().onsuccess = (event) => {
        const { put = [], remove = [], add = [], result } = edit(event.target.result) ?? {};
        put.forEach((one) => store.put(one));
        remove.forEach((number) => store.delete(number));
        add.forEach((one) => store.add(one));
        done(result);
      };
    }),
};

export const snapshot = {
  get: (account) => read("tasks", (store) => store.get(account)),
  put: (account, state) => within("tasks", "readwrite", (store) => store.put(state, account)),
  clear: () => within("tasks", "readwrite", (store) => store.clear()),
};
