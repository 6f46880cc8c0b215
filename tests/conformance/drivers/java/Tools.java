// Stock Java tools, run by the JDK's launcher: `java -cp 'JARS/*' Tools.java TOOL URL [FOLDER]`.
// It prints what the tool found; it judges nothing.

import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.ResultSet;

class Tools {
    interface Ask {
        ResultSet of(DatabaseMetaData meta) throws Exception;
    }

    public static void main(String[] args) throws Exception {
        switch (args[0]) {
            case "metadata" -> metadata(args[1]);
            case "flyway" -> flyway(args[1], args[2]);
            case "liquibase" -> liquibase(args[1], args[2]);
            default -> throw new IllegalArgumentException(args[0]);
        }
    }

    static void metadata(String url) throws Exception {
        try (Connection connection = DriverManager.getConnection(url)) {
            DatabaseMetaData meta = connection.getMetaData();
            System.out.println(meta.getDatabaseProductVersion() + " " + meta.getMaxColumnNameLength() + " "
                + meta.getSQLKeywords().length() + " " + meta.getMaxConnections() + " " + connection.getSchema());
            show("tables", meta, m -> m.getTables(null, "public", "%", null));
            show("system tables", meta, m -> m.getTables(null, "pg_catalog", "pg_cla%", new String[] {"SYSTEM TABLE"}));
            show("columns", meta, m -> m.getColumns(null, "public", "%", "%"));
            show("primary keys", meta, m -> m.getPrimaryKeys(null, "public", "orders"));
            show("imported keys", meta, m -> m.getImportedKeys(null, "public", "orders"));
            show("exported keys", meta, m -> m.getExportedKeys(null, "public", "customers"));
            show("cross reference", meta, m -> m.getCrossReference(null, "public", "customers", null, "public", "orders"));
            show("indexes", meta, m -> m.getIndexInfo(null, "public", "orders", false, true));
            show("row identifier", meta, m -> m.getBestRowIdentifier(null, "public", "orders", 1, true));
            show("version columns", meta, m -> m.getVersionColumns(null, "public", "orders"));
            show("table privileges", meta, m -> m.getTablePrivileges(null, "public", "orders"));
            show("column privileges", meta, m -> m.getColumnPrivileges(null, "public", "orders", "%"));
            show("functions", meta, m -> m.getFunctions(null, "public", "%"));
            show("function columns", meta, m -> m.getFunctionColumns(null, "public", "%", "%"));
            show("procedures", meta, m -> m.getProcedures(null, "public", "%"));
            show("procedure columns", meta, m -> m.getProcedureColumns(null, "public", "%", "%"));
            show("schemas", meta, DatabaseMetaData::getSchemas);
            show("catalogs", meta, DatabaseMetaData::getCatalogs);
            show("table types", meta, DatabaseMetaData::getTableTypes);
            show("types", meta, DatabaseMetaData::getTypeInfo);
            show("own types", meta, m -> m.getUDTs(null, "public", "%", null));
            show("client info", meta, DatabaseMetaData::getClientInfoProperties);
            try (var statement = connection.prepareStatement("select o.*, c.name from orders o join customers c on c.id = o.customer where o.id < ?")) {
                var parameters = statement.getParameterMetaData();
                System.out.println("parameters " + parameters.getParameterCount() + " " + parameters.getParameterTypeName(1));
                var columns = statement.getMetaData();
                for (int i = 1; i <= columns.getColumnCount(); i++) {
                    System.out.println("result " + columns.getColumnName(i) + " " + columns.getTableName(i) + " "
                        + columns.getColumnTypeName(i) + " " + columns.isNullable(i) + " " + columns.isAutoIncrement(i));
                }
                for (int round = 0; round < 8; round++) {
                    statement.setInt(1, 5);
                    try (var rows = statement.executeQuery()) {
                        int n = 0;
                        while (rows.next()) n++;
                        System.out.println("rows " + n);
                    }
                }
            }
        }
    }

    static void show(String what, DatabaseMetaData meta, Ask ask) throws Exception {
        try (ResultSet rows = ask.of(meta)) {
            int columns = rows.getMetaData().getColumnCount();
            int count = 0;
            StringBuilder line = new StringBuilder();
            while (rows.next()) {
                count++;
                for (int i = 1; i <= columns; i++) line.append(rows.getString(i)).append('|');
                line.append('\n');
            }
            System.out.println("== " + what + " " + count + "\n" + line);
        }
    }

    static void flyway(String url, String folder) {
        var flyway = org.flywaydb.core.Flyway.configure().dataSource(url, null, null)
            .locations("filesystem:" + folder)
            .baselineOnMigrate(true).baselineVersion("0").load();
        System.out.println("migrated " + flyway.migrate().migrationsExecuted);
        flyway.validate();
        System.out.println("at " + flyway.info().current().getVersion());
    }

    static void liquibase(String url, String folder) throws Exception {
        try (Connection connection = DriverManager.getConnection(url)) {
            var database = liquibase.database.DatabaseFactory.getInstance()
                .findCorrectDatabaseImplementation(new liquibase.database.jvm.JdbcConnection(connection));
            var accessor = new liquibase.resource.DirectoryResourceAccessor(new java.io.File(folder));
            try (var liquibase = new liquibase.Liquibase("changelog.sql", accessor, database)) {
                liquibase.update("");
                System.out.println("unrun " + liquibase.listUnrunChangeSets(null, null).size());
            }
        }
    }
}
