package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"chat/internal/protocol"
	"chat/internal/wstest"
)

// The log says at which URLs the chat can be opened, and none that other machines cannot
// reach.
func TestAnnounce(t *testing.T) {
	for listen, want := range map[string][]string{
		"127.0.0.1": {"listening on 127.0.0.1:8080", "open http://localhost:8080 on this machine"},
		"10.0.0.7":  {"listening on 10.0.0.7:8080", "open http://10.0.0.7:8080 from other machines", "port 8080", "open http://10.0.0.7:8080 on this machine"},
	} {
		log := captureLog(t)
		announce(&net.TCPAddr{IP: net.ParseIP(listen), Port: 8080})
		text := log()
		for _, part := range want {
			if !strings.Contains(text, part) {
				t.Errorf("%s: no %q in %s", listen, part, text)
			}
		}
		if listen == "127.0.0.1" && strings.Contains(text, "other machines") {
			t.Errorf("%s: %s", listen, text)
		}
	}
}

// From here on real sockets and real time, and the program as a process.

// listenAndServe starts a server on a port of its own. It stops, quickly, with the test.
func listenAndServe(t testing.TB) (addr string, stop func()) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- newServer(nil, 0, 1000).serve(ctx, l, nil) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

func dial(t testing.TB, addr string) *websocket.Conn {
	conn, _, err := websocket.DefaultDialer.Dial("ws://"+addr+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	return conn
}

// enter dials, and returns when the client is in the room: the answer to the handshake
// comes a moment earlier.
func enter(t testing.TB, addr string) *websocket.Conn {
	conn := dial(t, addr)
	if err := conn.WriteMessage(websocket.TextMessage, []byte("here I am")); err != nil {
		t.Fatal(err)
	}
	if _, text, err := conn.ReadMessage(); !strings.Contains(string(text), "here I am") {
		t.Fatalf("%q, %v", text, err)
	}
	return conn
}

// drain reads to the end of the connection, and returns the error that ended it.
func drain(conn *websocket.Conn) error {
	for {
		if _, _, err := conn.ReadMessage(); err != nil {
			return err
		}
	}
}

// A stop while twenty clients talk, on real sockets, where a reset would discard what was
// not yet read.
func TestAStopOnSockets(t *testing.T) {
	addr, stop := listenAndServe(t)
	people := make([]*websocket.Conn, 20)
	for i := range people {
		people[i] = enter(t, addr)
	}
	var all sync.WaitGroup
	received := make([]strings.Builder, len(people))
	people[0].WriteMessage(websocket.TextMessage, []byte("talk!"))
	for i, conn := range people {
		all.Go(func() {
			for n := 0; ; n++ {
				_, text, err := conn.ReadMessage()
				if err != nil {
					if !websocket.IsCloseError(err, websocket.CloseGoingAway) {
						t.Errorf("%d ended with %v", i, err)
					}
					conn.Close()
					return
				}
				fmt.Fprintf(&received[i], "%s\n", text)
				conn.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, "%d says %d", i, n)) // fails once the connection is closed
				if n == 100 && i == 0 {
					go stop()
				}
			}
		})
	}
	all.Wait()
	_, lines, _ := strings.Cut(received[0].String(), "talk!\n") // not all were there for what was said before
	for i := range received {
		if _, got, _ := strings.Cut(received[i].String(), "talk!\n"); got != lines || strings.Count(lines, "\n") < 100 {
			t.Errorf("%d has received something else", i)
		}
	}
}

// The close frame arrives on real sockets, however much more the client is sending.
func TestTheCloseFrameArrivesOnSockets(t *testing.T) {
	addr, _ := listenAndServe(t)
	for range 5 {
		conn := dial(t, addr)
		go func() {
			for range 20 {
				conn.WriteMessage(websocket.TextMessage, make([]byte, 100_000)) // an error says that it is closed
			}
		}()
		if err := drain(conn); !websocket.IsCloseError(err, websocket.CloseMessageTooBig) {
			t.Errorf("ended with %v", err)
		}
		conn.Close()
	}
}

// process is the program, started with flags.
type process struct {
	*exec.Cmd
	stderr *bufio.Reader
	log    strings.Builder // what it has written so far
}

func start(t *testing.T, command ...string) *process {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	p := &process{Cmd: exec.CommandContext(ctx, command[0], command[1:]...)}
	p.Env = append(os.Environ(), "CHAT_TEST_RUN_MAIN=1")
	p.Dir = t.TempDir() // it must work from any folder
	stderr, err := p.StderrPipe()
	if err == nil {
		err = p.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Process.Kill(); p.Wait() })
	p.stderr = bufio.NewReader(stderr)
	return p
}

// waitFor reads the log until it matches, and returns the first group of the match.
func (p *process) waitFor(t *testing.T, pattern string) string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	for {
		line, err := p.stderr.ReadString('\n')
		p.log.WriteString(line)
		if match := re.FindStringSubmatch(line); match != nil {
			return match[len(match)-1]
		}
		if err != nil {
			t.Fatalf("no %q in the log: %s", pattern, p.log.String())
		}
	}
}

// exit waits for the end and returns the status and all that was written.
func (p *process) exit() (int, string) {
	rest, _ := io.ReadAll(p.stderr)
	p.log.Write(rest)
	p.Wait()
	return p.ProcessState.ExitCode(), p.log.String()
}

func self(t *testing.T) string {
	path, err := filepath.Abs(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// A usage error ends the program with status 2 and names the flag.
func TestUsageErrors(t *testing.T) {
	for _, flags := range [][]string{
		{"-unknown"},
		{"stray"},
		{"-addr", "8080"},
		{"-addr", ":nonsense"},
		{"-addr", ":70000"},
		{"-origin", "https://chat.example"},
		{"-proxy", "nginx"},
		{"-rate", "-1"},
		{"-rate", "NaN"},
		{"-rate", "1e-10"},
		{"-rate", "Inf"},
		{"-rate", "fast"},
		{"-max-clients", "0"},
		{"-max-clients", "1000000000"},
		{"-metrics", "9090"},
		{"-metrics", ":nonsense"},
		{"-keep", "1h"},
		{"-keep", "-1h", "-history", "unused"},
		{"-keep", "soon", "-history", "unused"},
		{"-history", "unused", "-nats", "nats://127.0.0.1:4222"},
		{"-nats", "127.0.0.1:4222"},
		{"-nats", "http://127.0.0.1:4222"},
		{"-nats", "nats://a:4222,nats://"},
		{"-nats-replicas", "3"},
		{"-nats-replicas", "0", "-nats", "nats://127.0.0.1:4222"},
		{"-nats-replicas", "6", "-nats", "nats://127.0.0.1:4222"},
		{"-nats-max-bytes", "1000"},
		{"-nats-max-bytes", "-1", "-nats", "nats://127.0.0.1:4222"},
		{"-nats-creds", "unused"},
		{"-nats-ca", "unused"},
	} {
		status, stderr := start(t, append([]string{self(t)}, flags...)...).exit()
		if status != 2 || !strings.Contains(stderr, "Usage of") || !strings.Contains(stderr, strings.TrimLeft(flags[0], "-")) {
			t.Errorf("%v: status %d, %s", flags, status, stderr)
		}
	}
}

// With files that are not there the program does not start.
func TestNATSFilesAreMissing(t *testing.T) {
	for _, flag := range []string{"-nats-creds", "-nats-ca"} {
		status, stderr := start(t, self(t), "-addr", "127.0.0.1:0", "-nats", "nats://127.0.0.1:1", flag, "missing").exit()
		if status != 1 || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "missing") {
			t.Errorf("%s: status %d, %s", flag, status, stderr)
		}
	}
}

// If it cannot listen, the program says so in one line, with what to try instead, and exits
// with status 1.
func TestItCannotListen(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().String()
	for _, fault := range []struct {
		flags []string
		hint  string
	}{
		{[]string{"-addr", taken}, `^\S+ \S+ -addr: .*is another chat running\? (-addr 127.0.0.1:\d+ is free|try another port)\)\n$`},
		{[]string{"-metrics", taken, "-addr", "127.0.0.1:0"}, `^\S+ \S+ -metrics: .*is another chat running\? (-metrics 127.0.0.1:\d+ is free|try another port)\)\n$`},
		{[]string{"-addr", "203.0.113.1:8080"}, `^\S+ \S+ -addr: .*this machine has no address 203.0.113.1; -addr :8080 listens on all that it has\)\n$`},
	} {
		status, stderr := start(t, append([]string{self(t)}, fault.flags...)...).exit()
		if status != 1 || !regexp.MustCompile(fault.hint).MatchString(stderr) {
			t.Errorf("%v: status %d, %s", fault.flags, status, stderr)
		}
	}
}

// The hello of a page at localhost has the URL that the log gives for other machines, and
// none if the log gives none.
func TestTheHelloHasTheURLForOthers(t *testing.T) {
	p := start(t, self(t), "-addr", "0.0.0.0:0")
	port := p.waitFor(t, `listening on \S+:(\d+)`)
	p.waitFor(t, "on this machine")
	want := ""
	if match := regexp.MustCompile(`open (\S+) from other machines`).FindStringSubmatch(p.log.String()); match != nil {
		want = match[1] + "/?room=team"
	}
	for _, host := range []string{"localhost", "127.0.0.1"} {
		dialer := websocket.Dialer{Subprotocols: []string{protocol.Subprotocol}, HandshakeTimeout: 20 * time.Second}
		conn, _, err := dialer.Dial("ws://"+net.JoinHostPort(host, port)+"/ws?room=team", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, frame, err := conn.ReadMessage()
		if err != nil {
			t.Fatal(err)
		}
		events, err := wstest.Events(protocol.ChatV1, frame)
		if err != nil || events[0].URL != want {
			t.Errorf("asked at %s, the URL is %q, %v, want %q", host, events[0].URL, err, want)
		}
		want = ""
	}
}

func TestMetricsFlag(t *testing.T) {
	p := start(t, self(t), "-addr", "127.0.0.1:0", "-metrics", "127.0.0.1:0")
	resp, err := http.Get(p.waitFor(t, `metrics at (\S+)`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); !strings.Contains(string(body), "\nchat_rooms 1\n") {
		t.Errorf("%s\n%s", resp.Status, body)
	}
}

func TestSignals(t *testing.T) {
	for _, signal := range []os.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(signal.String(), func(t *testing.T) {
			p := start(t, self(t), "-addr", "127.0.0.1:0")
			addr := p.waitFor(t, `listening on (\S+)`)
			conn := dial(t, addr)
			silent, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer silent.Close()
			if err := conn.WriteMessage(websocket.TextMessage, []byte("hello")); err != nil {
				t.Fatal(err)
			}
			if _, text, err := conn.ReadMessage(); string(text) != "hello" {
				t.Fatalf("%q, %v", text, err)
			}
			p.Process.Signal(signal)
			end := drain(conn)
			var closed *websocket.CloseError
			if !errors.As(end, &closed) || closed.Code != websocket.CloseGoingAway || closed.Text == "" {
				t.Errorf("ended with %v", end)
			}
			if status, stderr := p.exit(); status != 0 || !strings.Contains(stderr, "stopping") {
				t.Errorf("status %d, %s", status, stderr)
			}
		})
	}
}

// A second signal does not wait for a client that does not answer.
func TestSecondSignal(t *testing.T) {
	for range 5 { // starved of its turn for a second, this test would come too late
		if endsBySignal(t) {
			return
		}
	}
	t.Error("the program ends by itself, whatever signals come")
}

func endsBySignal(t *testing.T) bool {
	p := start(t, self(t), "-addr", "127.0.0.1:0")
	silent, err := net.Dial("tcp", p.waitFor(t, `listening on (\S+)`))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	io.WriteString(silent, handshake)
	if _, err := silent.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	p.Process.Signal(os.Interrupt)
	p.waitFor(t, "stopping")
	// The first one's handler is gone soon after, but nothing tells exactly when.
	ended := make(chan struct{})
	go func() { p.exit(); close(ended) }()
	for {
		p.Process.Signal(os.Interrupt)
		select {
		case <-ended:
			status, ok := p.ProcessState.Sys().(syscall.WaitStatus)
			return ok && status.Signaled()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Without a file descriptor left the room goes on, and newcomers are accepted once some are
// free.
func TestNoFileDescriptorLeft(t *testing.T) {
	p := start(t, "sh", "-c", `ulimit -n 40 && exec "$0" -addr 127.0.0.1:0`, self(t))
	addr := p.waitFor(t, `listening on (\S+)`)
	ada, bob := enter(t, addr), enter(t, addr)
	if _, text, err := ada.ReadMessage(); string(text) != "here I am" {
		t.Errorf("%q, %v", text, err) // and bob is there, too
	}
	var idle []net.Conn
	for range 60 {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		idle = append(idle, conn)
	}
	p.waitFor(t, "too many open files")
	if err := ada.WriteMessage(websocket.TextMessage, []byte("crowded")); err != nil {
		t.Fatal(err)
	}
	for _, conn := range []*websocket.Conn{ada, bob} {
		if _, text, err := conn.ReadMessage(); string(text) != "crowded" {
			t.Errorf("%q, %v", text, err)
		}
	}
	for _, conn := range idle {
		conn.Close()
	}
	late := dial(t, addr)
	if err := late.WriteMessage(websocket.TextMessage, []byte("at last")); err != nil {
		t.Fatal(err)
	}
	if _, text, err := ada.ReadMessage(); string(text) != "at last" {
		t.Errorf("%q, %v", text, err)
	}
}

// The environment decides how often the garbage collector runs, where it says so.
func TestGCPercent(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	for env, want := range map[string]int{"": 200, "100": 100} {
		t.Setenv("GOGC", env)
		setGCPercent()
		if got := debug.SetGCPercent(100); got != want {
			t.Errorf("with GOGC=%s: %d, want %d", env, got, want)
		}
	}
}
