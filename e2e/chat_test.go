// Package e2e shows the chat as people meet it: the real server, the real page,
// tabs of a real Chromium, and between them lines that can be cut. Several servers share
// their rooms over real nodes of NATS.
//
//	go test -parallel 8 ./...
//
// needs Debian's chromium and nginx on the PATH, and npm, which fetches axe-core once
// into the user's cache directory. With -update it also writes the pictures that the
// README shows into screenshots/.
package e2e

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// The words in which the tests are written: a chat that can be stopped, killed and
// started again, and those who say something in it without a page. The people who
// have a page are in tab_test.go, their lines in line_test.go.

// patience is how long a condition may take to come true. It is long because it
// costs nothing but in a test that fails, and machines that build beside it are slow.
const patience = 30 * time.Second

const exampleModule = "github.com/gorilla/websocket/examples/chat"

var (
	update = flag.Bool("update", false, "write the README's pictures")

	folder        string // where programs are built
	chatBinary    string // this server
	exampleBinary string // the gorilla example's
	exampleFolder string // where its page is
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	folder, err = os.MkdirTemp("", "chat-e2e-")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(folder)
	chatBinary = filepath.Join(folder, "chat")
	exampleBinary = filepath.Join(folder, "example")
	for _, err := range []error{
		build(chatBinary, "."),
		build(exampleBinary, exampleModule),
		find(&exampleFolder, exampleModule),
	} {
		if err != nil {
			fmt.Println(err)
			return 1
		}
	}
	defer func() { stopChromium() }()
	return m.Run()
}

// build compiles a program as the server's module sees it.
func build(binary, pkg string) error {
	cmd := exec.Command("go", "build", "-o", binary, pkg)
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %v\n%s", pkg, err, out)
	}
	return nil
}

// find puts into folder where the source of a package is.
func find(folder *string, pkg string) error {
	cmd := exec.Command("go", "list", "-f", "{{.Dir}}", pkg)
	cmd.Dir = ".."
	out, err := cmd.Output()
	*folder = strings.TrimSpace(string(out))
	if err != nil {
		return fmt.Errorf("looking for %s: %v", pkg, err)
	}
	return nil
}

// chat is a server process, and after startAgain the one in its place.
type chat struct {
	t     *testing.T
	addr  string // the same over restarts
	flags []string
	cmd   *exec.Cmd
	ended chan error // of cmd
	log   *logbook   // of cmd
}

// startChat starts the server on a port that is free. It is killed when the test ends.
func startChat(t *testing.T, flags ...string) *chat {
	t.Helper()
	c := &chat{t: t, addr: "127.0.0.1:0", flags: flags}
	c.startAgain()
	t.Cleanup(c.kill)
	return c
}

// startAgain starts the server where it was before.
func (c *chat) startAgain() {
	c.t.Helper()
	// The kernel may have lent the port to someone for a moment.
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		addr, said := c.launch()
		if addr != "" {
			c.addr = addr
			return
		}
		if !strings.Contains(said, "address already in use") || time.Now().After(deadline) {
			c.t.Fatalf("the server does not start: %s", said)
		}
	}
}

// launch starts the server and returns where it listens, or "" and what it said
// before it ended.
func (c *chat) launch() (addr, said string) {
	c.t.Helper()
	c.cmd = exec.Command(chatBinary, append([]string{"-addr", c.addr}, c.flags...)...)
	stderr, err := c.cmd.StderrPipe()
	if err == nil {
		err = c.cmd.Start()
	}
	if err != nil {
		c.t.Fatal(err)
	}
	c.ended = make(chan error, 1)
	listening := make(chan string, 1)
	log := new(logbook)
	c.log = log
	c.t.Cleanup(func() {
		if c.t.Failed() {
			c.t.Logf("the server's log:\n%s", log)
		}
	})
	go func() {
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			fmt.Fprintln(log, lines.Text())
			if _, addr, ok := strings.Cut(lines.Text(), "listening on "); ok {
				listening <- addr
			}
		}
		close(listening)
		c.ended <- c.cmd.Wait()
	}()
	return <-listening, log.String()
}

// logbook is written by one goroutine and read by another.
type logbook struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// kill ends the server without a word.
func (c *chat) kill() {
	c.cmd.Process.Kill() // it may have ended before
	err := <-c.ended
	c.ended <- err // for the next who asks
}

// stop asks the server to end, as systemd or an administrator would.
func (c *chat) stop() {
	c.t.Helper()
	begin := time.Now()
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		c.t.Fatal(err)
	}
	err := <-c.ended
	c.ended <- err
	if took := time.Since(begin); took > 6*time.Second || err != nil {
		c.t.Errorf("stopping took %v and ended with %v", took, err)
	}
}

// startExample starts the gorilla example with a page of ours and returns its address.
func startExample(t *testing.T, page string) string {
	t.Helper()
	folder := t.TempDir()
	text, err := os.ReadFile(page)
	if err == nil {
		err = os.WriteFile(filepath.Join(folder, "home.html"), text, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") // for a port: the example does not tell which it has
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	ctx, stop := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, exampleBinary, "-addr", addr)
	cmd.Dir = folder
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		cmd.Wait()
	})
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
			return addr
		}
		if time.Now().After(deadline) {
			t.Fatalf("the example does not start: %v", err)
		}
	}
}

// program is someone in the room without a page: a classic client. It reads all the
// time.
type program struct {
	t     *testing.T
	conn  *websocket.Conn
	heard logbook
}

// joinProgram lets a program into the room, with a name or (name "") without.
func (c *chat) joinProgram(name string) *program {
	c.t.Helper()
	conn, _, err := websocket.DefaultDialer.Dial("ws://"+c.addr+"/ws?name="+name, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	p := &program{t: c.t, conn: conn}
	go func() {
		for {
			_, text, err := conn.ReadMessage()
			if err != nil {
				return
			}
			fmt.Fprintf(&p.heard, "%s\n", text)
		}
	}()
	return p
}

// say says lines one after the other. The server need not have read them yet.
func (p *program) say(texts ...string) {
	p.t.Helper()
	for _, text := range texts {
		if err := p.conn.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
			p.t.Fatalf("say: %v", err)
		}
	}
}

// wantHeard fails the test unless the room has heard a line.
func (p *program) wantHeard(text string) {
	p.t.Helper()
	eventually(p.t, fmt.Sprintf("%q is heard", text), func() bool { return strings.Contains(p.heard.String(), text+"\n") })
}

// eventually fails the test unless a condition comes true in time.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: still not so after %v", what, patience)
		}
	}
}

// numbered returns so many lines, each its own.
func numbered(n int, what string) []string {
	lines := make([]string, n)
	for i := range lines {
		lines[i] = fmt.Sprintf("%s %d", what, i+1)
	}
	return lines
}
