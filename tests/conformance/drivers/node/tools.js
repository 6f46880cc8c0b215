// Stock JavaScript tools: `node tools.js MODULES WHAT URL [KEY CERT CA]`. It prints what they found.
const { createRequire } = require('module');
const fs = require('fs');
const [modules, what, host, port, user, password, ca, cert, key] = process.argv.slice(2);
const load = createRequire(modules + '/');
const ssl = { ca: fs.readFileSync(ca), ...(cert ? { cert: fs.readFileSync(cert), key: fs.readFileSync(key) } : {}) };
const connection = { host, port: Number(port), user, password: password || undefined, database: 'postgres', ssl };

async function reflect() {
  const { Sequelize, QueryTypes } = load('sequelize');
  const sequelize = new Sequelize('postgres', user, password || null, {
    host, port: Number(port), dialect: 'postgres', dialectModule: load('pg'), logging: false, dialectOptions: { ssl },
  });
  await sequelize.authenticate();
  console.log('version', await sequelize.databaseVersion());
  const look = sequelize.getQueryInterface();
  console.log('schemas', JSON.stringify(await look.showAllSchemas()));
  console.log('tables', JSON.stringify((await look.showAllTables()).sort()));
  for (const table of ['orders', 'customers']) {
    console.log(table, JSON.stringify(await look.describeTable(table)));
    console.log(table, JSON.stringify(await look.showIndex(table)));
    console.log(table, JSON.stringify(await look.getForeignKeyReferencesForTable(table)));
    console.log(table, await look.tableExists(table));
  }
  const Order = sequelize.define('orders', { note: 'text', amount: 'numeric' }, { timestamps: false });
  console.log(await Order.count(), JSON.stringify(await Order.findAll({ limit: 3, order: ['id'] })));
  console.log(JSON.stringify(await sequelize.query('select $1::int as n', { bind: [1], type: QueryTypes.SELECT })));
  await sequelize.close();

  const knex = load('knex')({ client: 'pg', connection });
  console.log(await knex.schema.hasTable('orders'), await knex.schema.hasColumn('orders', 'note'));
  console.log(JSON.stringify(await knex('orders').columnInfo()));
  console.log(JSON.stringify(await knex('orders').where('id', '<', 3).select('id', 'note').orderBy('id')));
  await knex.destroy();
}

async function migrate() {
  const knex = load('knex')({ client: 'pg', connection });
  const steps = [
    { name: '1', up: (k) => k.schema.createTable('knexed', (t) => { t.increments(); t.string('name').notNullable().unique(); }), down: (k) => k.schema.dropTable('knexed') },
    { name: '2', up: (k) => k.schema.alterTable('knexed', (t) => { t.timestamps(true, true); t.index(['name', 'id']); }), down: async () => {} },
  ];
  const migrationSource = { getMigrations: async () => steps, getMigrationName: (m) => m.name, getMigration: async (m) => m };
  const [batch, done] = await knex.migrate.latest({ migrationSource });
  console.log('batch', batch, done.length);
  await knex('knexed').insert({ name: 'a' });
  await knex.migrate.rollback({ migrationSource }, true);
  console.log('rolled back', await knex.schema.hasTable('knexed'));
  await knex.destroy();
}

({ reflect, migrate })[what]().catch((error) => { console.error(error); process.exit(1); });
