package main

import (
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	_ "github.com/mattn/go-sqlite3"
)

const (
	quotaTasks = 100_000
	quotaBytes = 1 << 30
	inDatabase = "2006-01-02 15:04:05.000000-07:00"
)

var columns = []string{
	"title", "description", "status", "priority", "due_at", "project", "labels", "recurrence", "time_zone", "reminders",
}

// querier is a database or a transaction.
type querier interface {
	QueryRow(query string, arguments ...any) *sql.Row
}

// store is the service's own SQLite database: many read at once, one writes.
type store struct {
	reader, writer *sql.DB
	queries        map[string]string
}

// open opens the database, with the queries that all rivals share.
func open(path, queries string) (*store, error) {
	settings := url.Values{
		"_journal_mode":    {"WAL"},
		"_synchronous":     {"FULL"},
		"_foreign_keys":    {"on"},
		"_busy_timeout":    {"10000"},
		"_txlock":          {"immediate"},
		"_mutex":           {"no"}, // database/sql lends a connection to one goroutine at a time
		"_stmt_cache_size": {"512"},
	}
	source := (&url.URL{Scheme: "file", Opaque: url.PathEscape(path), RawQuery: settings.Encode()}).String()
	opened := &store{}
	content, err := os.ReadFile(queries)
	if err != nil {
		return nil, fmt.Errorf("QUERIES: %w", err)
	}
	if err := json.Unmarshal(content, &opened.queries); err != nil {
		return nil, fmt.Errorf("QUERIES: %w", err)
	}
	if opened.reader, err = connect(source, 4); err != nil {
		return nil, err
	}
	opened.writer, err = connect(source, 1)
	return opened, err
}

// connect returns a pool of at most so many connections, which stay open.
func connect(source string, most int) (*sql.DB, error) {
	database, err := sql.Open("sqlite3", source)
	if err != nil {
		return nil, err
	}
	database.SetMaxOpenConns(most)
	database.SetMaxIdleConns(most)
	return database, database.Ping()
}

// account returns the account of a session that is not over, or 0.
func (s *store) account(sessionID string) (id int64, err error) {
	var email, role, createdAt string
	row := s.reader.QueryRow(s.queries["session"], sql.Named("session_id", sessionID))
	if err = row.Scan(&id, &email, &role, &createdAt); errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	return id, err
}

// scanned returns the task of a row, whose method `scan` is.
func scanned(scan func(values ...any) error) (*Task, error) {
	var task Task
	var priority int
	var due *string
	var labels, reminders, created, updated string
	err := scan(
		&task.ID, &task.Title, &task.Description, &task.Status, &priority, &due, &task.Project, &labels,
		&task.Recurrence, &task.TimeZone, &reminders, &created, &updated, &task.version,
	)
	if err != nil {
		return nil, err
	}
	task.Priority = priorities[priority]
	if due != nil {
		task.DueAt = new(time.Time)
		err = setTime(task.DueAt, *due)
	}
	return &task, errors.Join(
		err,
		setTime(&task.CreatedAt, created),
		setTime(&task.UpdatedAt, updated),
		json.Unmarshal([]byte(labels), &task.Labels),
		json.Unmarshal([]byte(reminders), &task.Reminders),
	)
}

func setTime(at *time.Time, kept string) (err error) {
	*at, err = time.ParseInLocation(inDatabase, kept, time.UTC)
	return err
}

// task returns a task, or a problem 404 where the account has no such task.
func (s *store) task(from querier, owner, id int64) (*Task, error) {
	row := from.QueryRow(s.queries["get"], sql.Named("task_id", id), sql.Named("owner", owner))
	task, err := scanned(row.Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, refuse(http.StatusNotFound, "no such task")
	}
	return task, err
}

// page returns the first tasks of an account, of any status or of one.
func (s *store) page(owner int64, limit int, status string) ([]*Task, error) {
	query, arguments := "list", []any{sql.Named("owner", owner), sql.Named("limit", limit+1)}
	if status != "" {
		query, arguments = "list_status", append(arguments, sql.Named("status", status))
	}
	rows, err := s.reader.Query(s.queries[query], arguments...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	tasks := []*Task{}
	for rows.Next() {
		task, err := scanned(rows.Scan)
		if err != nil {
			return nil, err
		}
		tasks = append(tasks, task)
	}
	return tasks[:min(limit, len(tasks))], rows.Err()
}

// values returns what the database keeps of the fields, in the order of `columns`.
func (f *Fields) values() ([]any, error) {
	labels, err := json.Marshal(f.Labels)
	if err != nil {
		return nil, err
	}
	reminders, err := json.Marshal(f.Reminders)
	if err != nil {
		return nil, err
	}
	var due any
	if f.DueAt != nil {
		due = f.DueAt.UTC().Format(inDatabase)
	}
	return []any{
		f.Title, *f.Description, f.Status, slices.Index(priorities, f.Priority), due, orNull(f.Project),
		string(labels), orNull(f.Recurrence), orNull(f.TimeZone), string(reminders),
	}, nil
}

func orNull(text *string) any {
	if text == nil {
		return nil
	}
	return *text
}

// write commits the work, or rolls it back where it returns an error.
func (s *store) write(work func(*sql.Tx) error) error {
	transaction, err := s.writer.Begin()
	if err != nil {
		return err
	}
	if err := work(transaction); err != nil {
		return errors.Join(err, transaction.Rollback())
	}
	return transaction.Commit()
}

// withinQuota returns a problem 403 where the work lets the account grow beyond its quota.
func (s *store) withinQuota(transaction *sql.Tx, owner int64, work func() error) error {
	tasksBefore, bytesBefore, err := s.usage(transaction, owner)
	if err != nil {
		return err
	}
	if err := work(); err != nil {
		return err
	}
	tasks, bytes, err := s.usage(transaction, owner)
	if (tasks > quotaTasks && tasks > tasksBefore) || (bytes > quotaBytes && bytes > bytesBefore) {
		return refuse(http.StatusForbidden, "quota exceeded")
	}
	return err
}

// usage returns the tasks and bytes that an account keeps.
func (s *store) usage(transaction *sql.Tx, owner int64) (tasks, bytes int64, err error) {
	err = transaction.QueryRow(s.queries["usage"], sql.Named("owner", owner)).Scan(&tasks, &bytes)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, 0, nil
	}
	return tasks, bytes, err
}

// insert keeps a new task and sets its id.
func (s *store) insert(owner int64, task *Task) error {
	values, err := task.values()
	if err != nil {
		return err
	}
	arguments := []any{
		sql.Named("owner_id", owner),
		sql.Named("created_at", task.CreatedAt.Format(inDatabase)),
		sql.Named("updated_at", task.UpdatedAt.Format(inDatabase)),
		sql.Named("version", task.version),
	}
	for index, column := range columns {
		arguments = append(arguments, sql.Named(column, values[index]))
	}
	return s.write(func(transaction *sql.Tx) error {
		return s.withinQuota(transaction, owner, func() error {
			return transaction.QueryRow(s.queries["insert"], arguments...).Scan(&task.ID)
		})
	})
}

// change sets the columns of what `edit` changes of a task, and returns the task.
func (s *store) change(owner, id int64, edit func(*Task) error) (task *Task, err error) {
	err = s.write(func(transaction *sql.Tx) error {
		task, err = s.task(transaction, owner, id)
		if err != nil {
			return err
		}
		was, err := task.values()
		if err != nil {
			return err
		}
		if err := edit(task); err != nil {
			return err
		}
		is, err := task.values()
		if err != nil || slices.Equal(was, is) {
			return err
		}
		if now := time.Now().UTC().Truncate(time.Microsecond); now.After(task.UpdatedAt) {
			task.UpdatedAt = now
		}
		set := []string{"updated_at = :updated_at", "version = :version"}
		arguments := []any{
			sql.Named("updated_at", task.UpdatedAt.Format(inDatabase)),
			sql.Named("version", task.version+1),
			sql.Named("task_id", id),
		}
		for index, column := range columns {
			if was[index] != is[index] {
				set = append(set, column+" = :"+column)
				arguments = append(arguments, sql.Named(column, is[index]))
			}
		}
		query := strings.Replace(s.queries["update"], "$columns", strings.Join(set, ", "), 1)
		return s.withinQuota(transaction, owner, func() error {
			_, err := transaction.Exec(query, arguments...)
			return err
		})
	})
	return task, err
}

// remove deletes a task.
func (s *store) remove(owner, id int64) error {
	return s.write(func(transaction *sql.Tx) error {
		if _, err := s.task(transaction, owner, id); err != nil {
			return err
		}
		_, err := transaction.Exec(s.queries["delete"], sql.Named("task_id", id))
		return err
	})
}
