// Prints the columns and rows that a query gives as JSON, values as text: node query.mjs FOLDER QUERY, where npm put its packages into FOLDER.
import { createRequire } from "node:module";

const [folder, query] = process.argv.slice(2);
const { DuckDBConnection } = createRequire(folder + "/")("@duckdb/node-api");
const connection = await DuckDBConnection.create();
const result = await connection.runAndReadAll(query);
console.log(JSON.stringify({ columns: result.columnNames(), rows: result.getRows().map((row) => row.map(String)) }));
