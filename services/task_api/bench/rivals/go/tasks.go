package main

import (
	"errors"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

const (
	largestPage = 200
	largestID   = 1<<53 - 1
	clock       = `([0-9]{1,4}H([0-9]{1,5}M)?([0-9]{1,6}S)?|[0-9]{1,5}M([0-9]{1,6}S)?|[0-9]{1,6}S)`
)

var (
	statuses   = []string{"pending", "in_progress", "completed"}
	priorities = []string{"low", "normal", "high"}
	rule       = regexp.MustCompile(`^[A-Z-]+=[A-Z0-9,+-]+(;[A-Z-]+=[A-Z0-9,+-]+)*$`)
	zone       = regexp.MustCompile(`^[A-Za-z0-9_+/-]+$`)
	before     = regexp.MustCompile(`^P([0-9]{1,2}W|[0-9]{1,3}D(T` + clock + `)?|T` + clock + `)$`)
)

// Reminder is a moment, or how long before the task is due.
type Reminder struct {
	At     time.Time `json:"at,omitzero"`
	Before string    `json:"before,omitzero"`
}

// Fields are what a client sets of a task.
type Fields struct {
	Title       string     `json:"title"`
	Description *string    `json:"description"`
	Status      string     `json:"status"`
	Priority    string     `json:"priority"`
	DueAt       *time.Time `json:"due_at"`
	Project     *string    `json:"project"`
	Labels      []string   `json:"labels"`
	Recurrence  *string    `json:"recurrence"`
	TimeZone    *string    `json:"time_zone"`
	Reminders   []Reminder `json:"reminders"`
}

// Task is a task as it is returned.
type Task struct {
	ID int64 `json:"id"`
	Fields
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
	version   int64
}

// sent is what a client may send: a task as it is returned, whose read-only members are ignored.
type sent struct {
	*Fields
	ID        jsontext.Value `json:"id"`
	CreatedAt jsontext.Value `json:"created_at"`
	UpdatedAt jsontext.Value `json:"updated_at"`
	OwnerID   jsontext.Value `json:"owner_id"`
}

// read returns the whole body: no write waits for a client.
func read(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, largestBody))
	if err != nil {
		return nil, refuse(http.StatusBadRequest, err.Error())
	}
	return body, nil
}

// decode sets the fields that the body has, and leaves the others.
func (f *Fields) decode(body []byte) error {
	if err := json.Unmarshal(body, &sent{Fields: f}, json.RejectUnknownMembers(true)); err != nil {
		return refuse(http.StatusBadRequest, err.Error())
	}
	if err := f.check(); err != nil {
		return refuse(http.StatusBadRequest, err.Error())
	}
	return nil
}

// check brings the fields into the form in which they are kept; it returns the first rule that is broken.
func (f *Fields) check() (err error) {
	if f.Title, err = name(f.Title, 200); err != nil {
		return errors.New("title: " + err.Error())
	}
	if f.Description == nil || utf8.RuneCountInString(*f.Description) > 10_000 || strings.Contains(*f.Description, "\x00") {
		return errors.New("description: at most 10,000 characters, without U+0000")
	}
	if !slices.Contains(statuses, f.Status) {
		return errors.New("status: one of " + strings.Join(statuses, ", "))
	}
	if !slices.Contains(priorities, f.Priority) {
		return errors.New("priority: one of " + strings.Join(priorities, ", "))
	}
	if f.DueAt != nil {
		if *f.DueAt, err = moment(*f.DueAt); err != nil {
			return errors.New("due_at: " + err.Error())
		}
	}
	if f.Project != nil {
		if *f.Project, err = name(*f.Project, 100); err != nil {
			return errors.New("project: " + err.Error())
		}
	}
	if f.Labels == nil || len(f.Labels) > 20 {
		return errors.New("labels: a list of at most 20")
	}
	for i := range f.Labels {
		if f.Labels[i], err = name(f.Labels[i], 50); err != nil {
			return errors.New("labels: " + err.Error())
		}
	}
	slices.Sort(f.Labels)
	f.Labels = slices.Compact(f.Labels)
	if f.Recurrence != nil && (len(*f.Recurrence) > 200 || !rule.MatchString(*f.Recurrence)) {
		return errors.New("recurrence: a rule of RFC 5545 with at most 200 characters")
	}
	if f.TimeZone != nil && (len(*f.TimeZone) > 64 || !zone.MatchString(*f.TimeZone)) {
		return errors.New("time_zone: the name of an IANA time zone")
	}
	return f.checkReminders()
}

func (f *Fields) checkReminders() (err error) {
	if f.Reminders == nil || len(f.Reminders) > 5 {
		return errors.New("reminders: a list of at most 5")
	}
	var distinct = []Reminder{}
	for _, one := range f.Reminders {
		if one.At.IsZero() == (one.Before == "") {
			return errors.New("reminders: either `at` or `before`")
		}
		if !one.At.IsZero() {
			if one.At, err = moment(one.At); err != nil {
				return errors.New("reminders: " + err.Error())
			}
		} else if !before.MatchString(one.Before) {
			return errors.New("reminders: `before` is a duration of ISO 8601")
		}
		if !slices.Contains(distinct, one) {
			distinct = append(distinct, one)
		}
	}
	f.Reminders = distinct
	return nil
}

// name returns the text without the space around it, as Python's str.strip knows it.
func name(text string, most int) (string, error) {
	text = strings.TrimFunc(text, func(r rune) bool { return unicode.IsSpace(r) || r >= '\x1c' && r <= '\x1f' })
	if length := utf8.RuneCountInString(text); length < 1 || length > most || strings.Contains(text, "\x00") {
		return "", errors.New("1 to " + strconv.Itoa(most) + " characters, without U+0000")
	}
	return text, nil
}

// moment returns the instant in UTC and in microseconds, as the database keeps it.
func moment(at time.Time) (time.Time, error) {
	at = at.UTC().Truncate(time.Microsecond)
	if at.Year() < 1 || at.Year() > 9999 {
		return at, errors.New("a moment between the years 1 and 9999, in UTC")
	}
	return at, nil
}

// taskID returns the id in the path.
func taskID(r *http.Request) (int64, error) {
	id, err := strconv.ParseUint(r.PathValue("id"), 10, 63)
	if err != nil || id > largestID {
		return 0, refuse(http.StatusNotFound, "no such task")
	}
	return int64(id), nil
}

func (s *service) list(_ http.ResponseWriter, r *http.Request, account int64) (int, any, error) {
	limit, query := 50, r.URL.Query()
	if query.Has("limit") {
		var err error
		if limit, err = strconv.Atoi(query.Get("limit")); err != nil || limit < 1 || limit > largestPage {
			return 0, nil, refuse(http.StatusBadRequest, "limit: 1 to 200")
		}
	}
	status := query.Get("status")
	if query.Has("status") && !slices.Contains(statuses, status) {
		return 0, nil, refuse(http.StatusBadRequest, "status: one of "+strings.Join(statuses, ", "))
	}
	page, err := s.store.page(account, limit, status)
	return http.StatusOK, page, err
}

func (s *service) create(w http.ResponseWriter, r *http.Request, account int64) (int, any, error) {
	body, err := read(w, r)
	if err != nil {
		return 0, nil, err
	}
	now, description := time.Now().UTC().Truncate(time.Microsecond), ""
	task := &Task{
		Fields: Fields{
			Description: &description,
			Status:      "pending",
			Priority:    "normal",
			Labels:      []string{},
			Reminders:   []Reminder{},
		},
		CreatedAt: now,
		UpdatedAt: now,
		version:   1,
	}
	if err := task.decode(body); err != nil {
		return 0, nil, err
	}
	if err := s.store.insert(account, task); err != nil {
		return 0, nil, err
	}
	w.Header().Set("Location", "/tasks/"+strconv.FormatInt(task.ID, 10))
	return http.StatusCreated, task, nil
}

func (s *service) get(_ http.ResponseWriter, r *http.Request, account int64) (int, any, error) {
	id, err := taskID(r)
	if err != nil {
		return 0, nil, err
	}
	task, err := s.store.task(s.store.reader, account, id)
	return http.StatusOK, task, err
}

func (s *service) change(w http.ResponseWriter, r *http.Request, account int64) (int, any, error) {
	id, err := taskID(r)
	if err != nil {
		return 0, nil, err
	}
	body, err := read(w, r)
	if err != nil {
		return 0, nil, err
	}
	task, err := s.store.change(account, id, func(task *Task) error { return task.decode(body) })
	return http.StatusOK, task, err
}

func (s *service) remove(_ http.ResponseWriter, r *http.Request, account int64) (int, any, error) {
	id, err := taskID(r)
	if err != nil {
		return 0, nil, err
	}
	deleted := struct {
		ID      int64  `json:"id"`
		Message string `json:"message"`
	}{id, "task deleted"}
	return http.StatusOK, deleted, s.store.remove(account, id)
}
