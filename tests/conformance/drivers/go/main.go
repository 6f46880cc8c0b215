// Command suite does what a Go program does with PostgreSQL through pgx, and prints it line by line.
// Run once direct and once through the proxy: both must print the same.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

func show(step string, values ...any) { fmt.Println(append([]any{step}, values...)...) }

func must(err error) {
	if err != nil {
		fmt.Println("unexpected:", err)
		os.Exit(1)
	}
}

func code(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	if err == nil {
		return "no error"
	}
	return err.Error()
}

func suite(ctx context.Context, conninfo string, mode pgx.QueryExecMode) {
	config, err := pgx.ParseConfig(conninfo)
	must(err)
	config.DefaultQueryExecMode = mode
	conn, err := pgx.ConnectConfig(ctx, config)
	must(err)
	defer conn.Close(ctx)
	show("mode", mode)
	var n int
	var text string
	must(conn.QueryRow(ctx, "select $1::int + 1, $2::text", 41, "ä'\"").Scan(&n, &text))
	show("parameters", n, text)
	_, err = conn.Exec(ctx, "drop table if exists gotest")
	must(err)
	_, err = conn.Exec(ctx, "create table gotest (id int primary key, note text)")
	must(err)
	batch := &pgx.Batch{}
	for i := range 50 {
		batch.Queue("insert into gotest values ($1, $2)", i, fmt.Sprint("note ", i))
	}
	batch.Queue("select count(*) from gotest")
	results := conn.SendBatch(ctx, batch)
	for range 50 {
		_, err := results.Exec()
		must(err)
	}
	must(results.QueryRow().Scan(&n))
	must(results.Close())
	show("batch", n)
	broken := &pgx.Batch{}
	broken.Queue("insert into gotest values (100, 'x')")
	broken.Queue("select 1/(id - id) from gotest")
	broken.Queue("insert into gotest values (101, 'x')")
	show("broken batch", code(conn.SendBatch(ctx, broken).Close()))
	must(conn.QueryRow(ctx, "select count(*) from gotest where id >= 100").Scan(&n))
	show("nothing of it stayed", n)
	copied, err := conn.CopyFrom(ctx, pgx.Identifier{"gotest"}, []string{"id", "note"},
		pgx.CopyFromSlice(1000, func(i int) ([]any, error) { return []any{1000 + i, "c"}, nil }))
	must(err)
	show("copy in", copied)
	var out strings.Builder
	tag, err := conn.PgConn().CopyTo(ctx, &out, "copy (select * from gotest order by id) to stdout")
	must(err)
	show("copy out", tag, out.Len())
	tx, err := conn.Begin(ctx)
	must(err)
	_, err = tx.Exec(ctx, "delete from gotest")
	must(err)
	_, err = tx.Exec(ctx, "select nothing")
	show("error in a transaction", code(err), string(conn.PgConn().TxStatus()))
	_, err = tx.Exec(ctx, "select 1")
	show("aborted", code(err))
	must(tx.Rollback(ctx))
	must(conn.QueryRow(ctx, "select count(*) from gotest").Scan(&n))
	show("rolled back", n, string(conn.PgConn().TxStatus()))
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	_, err = conn.Exec(short, "select pg_sleep(10)")
	cancel()
	show("cancelled", err != nil)
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	modes := []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe,
		pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol}
	for _, mode := range modes {
		suite(ctx, os.Args[1], mode)
	}
}
