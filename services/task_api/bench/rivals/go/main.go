// The tasks on Go's net/http, with the features of ../shared.py: the floor that the frameworks are held against.
package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/golang-jwt/jwt/v5"
	"github.com/hashicorp/golang-lru/v2/expirable"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"
)

const (
	window      = 60 // seconds of a rate limit
	sessionLife = time.Second
	largestBody = 1 << 20
)

var (
	requests = promauto.NewCounterVec(
		prometheus.CounterOpts{Name: "api_requests_total", Help: "Requests answered."},
		[]string{"endpoint", "method", "status"},
	)
	duration = promauto.NewHistogramVec(
		prometheus.HistogramOpts{Name: "api_request_duration_seconds", Help: "Time to answer a request."},
		[]string{"endpoint", "method"},
	)
	logger = zerolog.New(os.Stdout)
)

// problem is a request that is refused (RFC 9457).
type problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
}

func (p *problem) Error() string { return p.Detail }

func refuse(status int, detail string) *problem {
	return &problem{http.StatusText(status), status, detail}
}

// action answers a request of an account: it returns the status and what the body encodes, or an error.
type action func(w http.ResponseWriter, r *http.Request, account int64) (int, any, error)

type service struct {
	store    *store
	limiter  *limiter
	keys     map[string][]byte
	sessions *expirable.LRU[string, session]
}

// handle returns the action within accounts, rate limit, metrics and log.
func (s *service) handle(route string, act action) http.HandlerFunc {
	policy := fmt.Sprintf(`"default";q=%d;w=%d`, s.limiter.limit, window)
	return func(w http.ResponseWriter, r *http.Request) {
		began, header := time.Now(), w.Header()
		requestID := newRequestID()
		account, err := s.account(r.Header.Get("Authorization"))
		client, _, _ := net.SplitHostPort(r.RemoteAddr)
		if err == nil {
			client = "account:" + strconv.FormatInt(account, 10)
		}
		left, reset := s.limiter.hit(client)
		header.Set("RateLimit-Policy", policy)
		header.Set("RateLimit", `"default";r=`+strconv.Itoa(max(left, 0))+`;t=`+strconv.Itoa(reset))
		header.Set("X-Request-Id", requestID)

		var status int
		var body any
		switch {
		case left < 0:
			header.Set("Retry-After", strconv.Itoa(reset))
			err = refuse(http.StatusTooManyRequests, "too many requests")
		case err == nil:
			status, body, err = act(w, r, account)
		}
		status = respond(w, status, body, err)
		finish(r.Method, route, status, time.Since(began), account, requestID)
	}
}

// respond sends the body, or the error's problem, and returns the status that it sent.
func respond(w http.ResponseWriter, status int, body any, err error) int {
	kind := "application/json"
	if err != nil {
		var refused *problem
		if !errors.As(err, &refused) {
			logger.Error().Err(err).Send()
			refused = refuse(http.StatusInternalServerError, "the request could not be answered")
		}
		kind, status, body = "application/problem+json", refused.Status, refused
		if status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", "Bearer")
		}
	}
	content, err := json.Marshal(body)
	if err != nil {
		panic(err) // no such type is sent
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Length", strconv.Itoa(len(content)))
	w.WriteHeader(status)
	_, _ = w.Write(content) // who does not wait for the answer is counted and logged as the others
	return status
}

// finish counts and logs an answered request.
func finish(method, route string, status int, took time.Duration, account int64, requestID string) {
	requests.WithLabelValues(route, method, strconv.Itoa(status)).Inc()
	duration.WithLabelValues(route, method).Observe(took.Seconds())
	line := logger.Info().
		Str("time", time.Now().UTC().Format("2006-01-02T15:04:05.000000Z07:00")).
		Str("method", method).
		Str("route", route).
		Int("status", status).
		Float64("duration_ms", float64(took.Microseconds())/1000)
	if account == 0 {
		line = line.RawJSON("account", []byte("null"))
	} else {
		line = line.Int64("account", account)
	}
	line.Str("request_id", requestID).Msg("request")
}

func newRequestID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // it never fails
	return hex.EncodeToString(id[:])
}

// session is what a valid token stands for.
type session struct {
	account   int64
	expiresAt time.Time
}

type claims struct {
	jwt.RegisteredClaims
	SessionID string `json:"sid"`
}

// account returns the account of a bearer token. The token's signature and session are known for a second.
func (s *service) account(authorization string) (int64, error) {
	refused := refuse(http.StatusUnauthorized, "a valid token is needed")
	token, isBearer := strings.CutPrefix(authorization, "Bearer ")
	if !isBearer {
		return 0, refused
	}
	if known, ok := s.sessions.Get(token); ok && time.Now().Before(known.expiresAt) {
		return known.account, nil
	}
	var read claims
	_, err := jwt.ParseWithClaims(token, &read, func(token *jwt.Token) (any, error) {
		kid, _ := token.Header["kid"].(string)
		if key, ok := s.keys[kid]; ok {
			return key, nil
		}
		return nil, jwt.ErrTokenUnverifiable
	}, jwt.WithValidMethods([]string{"HS256"}), jwt.WithIssuer("task-api"), jwt.WithExpirationRequired())
	if err != nil {
		return 0, refused
	}
	account, err := s.store.account(read.SessionID)
	if err != nil {
		return 0, err
	}
	if account == 0 {
		return 0, refused
	}
	s.sessions.Add(token, session{account, read.ExpiresAt.Time})
	return account, nil
}

// limiter counts each client's requests in windows that begin for all at once.
type limiter struct {
	limit  int
	mutex  sync.Mutex
	endsAt int64
	counts map[string]int
}

// hit counts a request; it returns how many are left (negative beyond the limit) and the seconds to the reset.
func (l *limiter) hit(client string) (left, reset int) {
	now := time.Now().Unix()
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if now >= l.endsAt {
		l.endsAt = (now/window + 1) * window
		clear(l.counts)
	}
	l.counts[client]++
	return l.limit - l.counts[client], int(l.endsAt - now)
}

// newService returns the service that the environment describes.
func newService() (*service, error) {
	count, _, _ := strings.Cut(os.Getenv("RATE_LIMIT"), "/")
	limit, err := strconv.Atoi(count)
	if err != nil {
		return nil, fmt.Errorf("RATE_LIMIT: %w", err)
	}
	keys := map[string][]byte{}
	for pair := range strings.SplitSeq(os.Getenv("JWT_KEYS"), ",") {
		kid, key, _ := strings.Cut(pair, ":")
		keys[kid] = []byte(key)
	}
	opened, err := open(os.Getenv("DB_PATH"), os.Getenv("QUERIES"))
	if err != nil {
		return nil, err
	}
	return &service{
		store:    opened,
		limiter:  &limiter{limit: limit, counts: map[string]int{}},
		keys:     keys,
		sessions: expirable.NewLRU[string, session](4096, nil, sessionLife),
	}, nil
}

func run() error {
	service, err := newService()
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.Handler())
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		respond(w, http.StatusOK, struct{}{}, nil)
	})
	const collection, item = "/tasks", "/tasks/<int:task_id>"
	mux.HandleFunc("GET /tasks", service.handle(collection, service.list))
	mux.HandleFunc("POST /tasks", service.handle(collection, service.create))
	mux.HandleFunc("GET /tasks/{id}", service.handle(item, service.get))
	mux.HandleFunc("PUT /tasks/{id}", service.handle(item, service.change))
	mux.HandleFunc("DELETE /tasks/{id}", service.handle(item, service.remove))
	mux.HandleFunc("/", service.handle("unmatched", func(http.ResponseWriter, *http.Request, int64) (int, any, error) {
		return 0, nil, refuse(http.StatusNotFound, "no such resource")
	}))

	ended, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	server := &http.Server{
		Addr:              "127.0.0.1:" + os.Getenv("PORT"),
		Handler:           mux,
		ReadHeaderTimeout: 10 * time.Second,
	}
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }()
	select {
	case err := <-failed:
		return err
	case <-ended.Done():
		return server.Shutdown(context.Background())
	}
}

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}
