package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// The chat behind a real nginx, which is set up as docs/deploy.md says: with its own
// blocks, in which only the name, the ports and the files are others. They have to be.

// nginx is an nginx process, and after startAgain the one in its place.
type nginx struct {
	t       *testing.T
	line    *line  // from it to the server; nil if there are several
	addr    string // where people find it
	folder  string // where its files are
	trust   *tls.Config
	secrets []string // keys and names of those who came through it
	cmd     *exec.Cmd
	ended   chan error // of cmd
}

// A change is text that must be in docs/deploy.md's blocks, and what stands there in a test.
type change struct{ from, to string }

// startNginx starts an nginx in front of the server. It is stopped when the test ends,
// and must not have written down more than it should.
func startNginx(t *testing.T, c *chat, changes ...change) *nginx {
	t.Helper()
	l := newLine(t, c.addr)
	n := newNginx(t, l, append(changes, change{"127.0.0.1:8080", l.addr})...)
	n.startAgain()
	return n
}

// startBalancer starts an nginx in front of three servers. It is stopped as one of startNginx
// is.
func startBalancer(t *testing.T, chats ...*chat) *nginx {
	t.Helper()
	changes := []change{{"127.0.0.1:8080", "chats"}}
	for i, c := range chats {
		changes = append(changes, change{fmt.Sprintf("10.0.0.%d:8080", i+1), c.addr})
	}
	n := newNginx(t, nil, changes...)
	n.startAgain()
	return n
}

// newNginx returns an nginx that is not started. Without a line it is in front of several
// servers.
func newNginx(t *testing.T, l *line, changes ...change) *nginx {
	t.Helper()
	n := &nginx{t: t, line: l, addr: freeAddr(t), folder: t.TempDir()}
	n.makeCertificate()
	n.writeConfig(append(changes,
		change{"listen 443 ssl;", "listen " + n.addr + " ssl;"},
		change{"server_name chat.example.org;", "server_name chat.test;"},
		change{"/etc/ssl/certs/chat.example.org.pem", n.file("cert.pem")},
		change{"/etc/ssl/private/chat.example.org.key", n.file("key.pem")},
		change{"/var/log/nginx/chat.access.log", n.file("access.log")},
		change{"/var/log/nginx/chat.error.log", n.file("chat.error.log")},
	))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("nginx's logs:\n%s\n%s\n%s", n.read("error.log"), n.read("chat.error.log"), n.read("access.log"))
			return
		}
		n.wantDiscreet()
	})
	return n
}

// freeAddr returns an address on which nobody listens.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (n *nginx) file(name string) string { return filepath.Join(n.folder, name) }

func (n *nginx) read(name string) string {
	n.t.Helper()
	text, err := os.ReadFile(n.file(name))
	if err != nil {
		n.t.Error(err)
	}
	return string(text)
}

func (n *nginx) write(name, text string) {
	n.t.Helper()
	if err := os.WriteFile(n.file(name), []byte(text), 0o600); err != nil {
		n.t.Fatal(err)
	}
}

// makeCertificate has nginx be chat.test, by its own word.
func (n *nginx) makeCertificate() {
	n.t.Helper()
	certificate := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     []string{"chat.test"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		n.t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, certificate, certificate, &key.PublicKey, key)
	if err != nil {
		n.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		n.t.Fatal(err)
	}
	inPEM := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	n.write("cert.pem", inPEM("CERTIFICATE", der))
	n.write("key.pem", inPEM("PRIVATE KEY", private))
	n.trust = &tls.Config{RootCAs: x509.NewCertPool()}
	n.trust.RootCAs.AppendCertsFromPEM([]byte(n.read("cert.pem")))
}

// writeConfig writes what docs/deploy.md says, and around it what a system has: a place for
// each of nginx's files.
func (n *nginx) writeConfig(changes []change) {
	n.t.Helper()
	blocks := deployBlocks(n.t, "nginx")
	if len(blocks) != 3 {
		n.t.Fatalf("docs/deploy.md has %d nginx blocks, want three: for nginx.conf, for the site, and for many servers", len(blocks))
	}
	top, site := blocks[0], blocks[1]
	if n.line == nil {
		site = blocks[2] + site
	}
	for _, c := range changes {
		if !strings.Contains(top+site, c.from) {
			n.t.Fatalf("docs/deploy.md's nginx blocks no longer have %q in them, in whose place the test puts %q", c.from, c.to)
		}
		top, site = strings.ReplaceAll(top, c.from, c.to), strings.ReplaceAll(site, c.from, c.to)
	}
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;" // the test's folder is open to nobody else
	}
	n.write("site.conf", site)
	n.write("nginx.conf", fmt.Sprintf(`
		daemon off;
		%s
		worker_processes 2;
		pid nginx.pid;
		error_log error.log;
		%s
		http {
			client_body_temp_path temp; proxy_temp_path temp; fastcgi_temp_path temp; uwsgi_temp_path temp; scgi_temp_path temp;
			include site.conf;
		}`, user, top))
}

// deployBlocks returns the blocks of a kind in docs/deploy.md.
func deployBlocks(t *testing.T, kind string) (blocks []string) {
	t.Helper()
	page, err := os.ReadFile("../docs/deploy.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range regexp.MustCompile("(?s)```"+kind+"\n(.*?)```\n").FindAllStringSubmatch(string(page), -1) {
		blocks = append(blocks, found[1])
	}
	return blocks
}

// findNginx tells where nginx is. On Debian that is not on everybody's PATH.
var findNginx = sync.OnceValues(func() (string, error) {
	for _, name := range []string{"nginx", "/usr/sbin/nginx"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("no nginx: install it so that it is on the PATH or in /usr/sbin (on Debian: apt-get install nginx-light)")
})

// command returns nginx with arguments, to be run on the test's files.
func (n *nginx) command(args ...string) *exec.Cmd {
	n.t.Helper()
	path, err := findNginx()
	if err != nil {
		n.t.Fatal(err)
	}
	return exec.Command(path, append([]string{"-p", n.folder, "-e", "error.log", "-c", "nginx.conf"}, args...)...)
}

// startAgain starts nginx where it was before.
func (n *nginx) startAgain() {
	n.t.Helper()
	n.cmd = n.command()
	if err := n.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.ended = make(chan error, 1)
	go func() { n.ended <- n.cmd.Wait() }()
	n.t.Cleanup(n.stop)
	eventually(n.t, "nginx listens", func() bool {
		select {
		case err := <-n.ended:
			n.ended <- err
			n.t.Fatalf("nginx does not start: %v", err) // its log says why
		default:
		}
		conn, err := net.Dial("tcp", n.addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// stop ends nginx and all connections through it.
func (n *nginx) stop() {
	n.cmd.Process.Signal(syscall.SIGTERM) // it may have ended before
	err := <-n.ended
	n.ended <- err // for the next who asks
}

// reload has new workers begin, as after a new certificate. It returns when old ones
// only wait for their connections to end.
func (n *nginx) reload() {
	n.t.Helper()
	if out, err := n.command("-s", "reload").CombinedOutput(); err != nil {
		n.t.Fatalf("reload: %v\n%s", err, out)
	}
	eventually(n.t, "an old worker is shutting down", n.isShuttingDown)
}

// isShuttingDown reports whether a worker waits for its connections to end.
func (n *nginx) isShuttingDown() bool {
	n.t.Helper()
	pid := n.cmd.Process.Pid
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))
	if err != nil {
		n.t.Fatal(err)
	}
	return slices.ContainsFunc(strings.Fields(string(children)), func(child string) bool {
		title, _ := os.ReadFile("/proc/" + child + "/cmdline") // it may just have ended
		return strings.Contains(string(title), "is shutting down")
	})
}

// url returns where people find a path.
func (n *nginx) url(path string) string {
	_, port, _ := net.SplitHostPort(n.addr)
	return "https://chat.test:" + port + path
}

// open lets a new person come by way of nginx.
func (n *nginx) open(path string) *tab {
	n.t.Helper()
	p := newPerson(n.t)
	p.visit(n.url(path))
	p.wantConnected()
	key := look[string](p, "JSON.parse(localStorage.getItem('chat /chat/ key'))")
	if len(key) != 32 {
		n.t.Fatalf("the page's key is %q", key)
	}
	n.secrets = append(n.secrets, key)
	return p
}

// join lets a program in by way of nginx, from one of this machine's own addresses. The
// program is nil if the answer is that it may not come in. It does not read yet.
func (n *nginx) join(from string) (program *websocket.Conn, answer *http.Response) {
	n.t.Helper()
	ip := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	dialer := websocket.Dialer{
		TLSClientConfig: n.trust,
		NetDial:         func(string, string) (net.Conn, error) { return ip.Dial("tcp", n.addr) },
	}
	conn, answer, err := dialer.Dial(strings.Replace(n.url("/chat/ws"), "https", "wss", 1), nil)
	if err != nil && answer == nil {
		n.t.Fatal(err)
	}
	if err == nil {
		n.t.Cleanup(func() { conn.Close() })
	}
	return conn, answer
}

// wantDiscreet fails the test if nginx, which has ended, wrote down anybody's name or key,
// or a room's name, which may be all that keeps the room private.
func (n *nginx) wantDiscreet() {
	n.t.Helper()
	if !strings.Contains(n.read("access.log"), `"GET /chat/`) {
		n.t.Errorf("nginx's log does not show that anybody came:\n%s", n.read("access.log"))
	}
	for _, name := range []string{"access.log", "chat.error.log", "error.log"} {
		text := n.read(name)
		for _, secret := range append(n.secrets, "name=", "key=", "room=") {
			if strings.Contains(text, secret) {
				n.t.Errorf("nginx's %s tells %q", name, secret)
			}
		}
	}
}

func TestThroughNginx(t *testing.T) {
	chat := startChat(t, "-origin", "chat.test")
	nginx := startNginx(t, chat)
	ada, bob := nginx.open("/chat?room=team"), chat.openRoom("team")
	ada.want("the page is below a path", "isSecureContext && location.href === "+quoted(nginx.url("/chat/?room=team")))
	nginx.secrets = append(nginx.secrets, "Adelheid")
	ada.rename("Adelheid")
	bob.wantNames("Adelheid", "guest")
	ada.say("hello")
	bob.wantSaid("Adelheid", "hello")
	bob.say("hi")
	ada.wantLines("hello", "hi")
	bob.wantLines("hello", "hi")
}

// What else nginx lets through, and what it does not.
func TestNginxAnswers(t *testing.T) {
	chat := startChat(t, "-origin", "chat.test")
	nginx := startNginx(t, chat)
	client := &http.Client{
		Transport: &http.Transport{
			DisableKeepAlives: true,
			TLSClientConfig:   nginx.trust,
			DialContext:       func(context.Context, string, string) (net.Conn, error) { return net.Dial("tcp", nginx.addr) },
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	program, _ := nginx.join("127.0.0.1")
	if err := program.WriteMessage(websocket.TextMessage, []byte("said before")); err != nil {
		t.Fatal(err)
	}
	if _, text, err := program.ReadMessage(); err != nil || string(text) != "said before" {
		t.Fatalf("%q, %v", text, err)
	}
	for _, c := range []struct {
		url    string
		status int
		leads  string // to, or
		says   string
	}{
		{nginx.url("/chat"), 301, nginx.url("/chat/"), ""},
		{nginx.url("/chat?room=team"), 301, nginx.url("/chat/?room=team"), ""},
		{nginx.url("/chat/"), 200, "", "<title>Chat</title>"},
		{nginx.url("/chat/ws"), 426, "", "WebSocket"},
		{nginx.url("/chat/history"), 200, "", `"text":"said before"`},
		{nginx.url("/chat/history?room=no%2Fname"), 400, "", "letters, digits"},
		{nginx.url("/chat/healthz"), 200, "", "ok"},
		{nginx.url("/chat/metrics"), 404, "", ""},
		{nginx.url("/"), 404, "", ""},
	} {
		resp, err := client.Get(c.url)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != c.status || resp.Header.Get("Location") != c.leads || !strings.Contains(string(body), c.says) {
			t.Errorf("%s answers %s, Location %q:\n%.200s\nwant %d, %q, %q",
				c.url, resp.Status, resp.Header.Get("Location"), body, c.status, c.leads, c.says)
		}
	}
}

// Who says nothing for longer than nginx waits for the server stays: the server pings.
func TestIdleBehindNginx(t *testing.T) {
	chat := startChat(t, "-origin", "chat.test")
	nginx := startNginx(t, chat, change{"proxy_read_timeout 75s;", "proxy_read_timeout 35s;"})
	ada, bob := nginx.open("/chat/"), chat.open()
	program, _ := nginx.join("127.0.0.1") // which hears nothing but pings
	before := nginx.line.opened()

	time.Sleep(40 * time.Second) // there is no other way to be idle for so long

	bob.say("still there?")
	program.SetReadDeadline(time.Now().Add(patience))
	if _, text, err := program.ReadMessage(); string(text) != "still there?" {
		t.Errorf("the program hears %q, %v", text, err)
	}
	ada.say("yes")
	ada.wantLines("still there?", "yes")
	bob.wantLines("still there?", "yes")
	if again := nginx.line.opened() - before; again != 0 {
		t.Errorf("%d connections were opened anew", again)
	}
}

// One that nginx does cut off, because it waits for less than the server's pings, comes back
// by itself, again and again. Nothing is missing, and nothing is there twice.
func TestNginxCutsIdleLines(t *testing.T) {
	chat := startChat(t, "-origin", "chat.test")
	nginx := startNginx(t, chat, change{"proxy_read_timeout 75s;", "proxy_read_timeout 2s;"})
	ada, bob := nginx.open("/chat/"), chat.open()
	var said []string
	for i := range 3 {
		ada.wantStatus("lost")
		question, answer := fmt.Sprintf("where are you? %d", i), fmt.Sprintf("on my way %d", i)
		bob.say(question)
		bob.wantState(question, "back")
		ada.want("she has heard it", "texts().includes("+quoted(question)+")")
		ada.say(answer)
		ada.wantState(answer, "back")
		said = append(said, question, answer)
	}
	ada.wantLines(said...)
	bob.wantLines(said...)
}

// With a new certificate, say, nginx begins anew for those who come. Those who are here
// stay until it has waited long enough, and then come back by themselves.
func TestNginxReloaded(t *testing.T) {
	chat := startChat(t, "-origin", "chat.test")
	nginx := startNginx(t, chat)
	ada, bob := nginx.open("/chat/"), chat.open()
	ada.say("before")
	bob.wantLines("before")

	before := nginx.line.opened()
	nginx.reload()
	bob.say("what was that?")
	ada.wantLines("before", "what was that?")
	ada.say("nothing")
	ada.wantState("nothing", "back")
	if !nginx.isShuttingDown() || nginx.line.opened() != before {
		t.Error("the connection was not left alone")
	}

	eventually(t, "the old workers have ended", func() bool { return !nginx.isShuttingDown() })
	ada.say("and now?")
	bob.wantLines("before", "what was that?", "nothing", "and now?")
	bob.say("all is well")
	ada.wantLines("before", "what was that?", "nothing", "and now?", "all is well")
	if got := nginx.line.opened() - before; got != 1 {
		t.Errorf("%d connections were opened since, want one", got)
	}
}

// Nothing listens for a while where people look for the chat.
func TestNginxStopped(t *testing.T) {
	chat := startChat(t, "-origin", "chat.test")
	nginx := startNginx(t, chat)
	ada, bob := nginx.open("/chat/"), chat.open()
	ada.say("before")
	bob.wantLines("before")

	nginx.stop()
	ada.wantStatus("no connection.*kept")
	ada.say("in the tunnel", "still in it")
	ada.write("a draft")
	bob.say("where is ada?")
	bob.wantLines("before", "where is ada?")
	nginx.startAgain()
	ada.wake()
	ada.wantState("still in it", "back")
	ada.wantLines("before", "where is ada?", "in the tunnel", "still in it")
	bob.wantLines("before", "where is ada?", "in the tunnel", "still in it")
	if got := ada.box().value(); got != "a draft" {
		t.Errorf("the box holds %q", got)
	}
}

// nginx is there, but the server behind it is not. That is when nginx would write down
// what was asked for, names and keys and all.
func TestServerStoppedBehindNginx(t *testing.T) {
	chat := startChat(t, "-origin", "chat.test")
	nginx := startNginx(t, chat)
	ada := nginx.open("/chat/")
	ada.say("before")
	ada.wantState("before", "back")
	chat.stop()
	ada.wantNote("the server is stopping")
	ada.wantStatus("error 502")
	ada.say("kept")
	ada.wantState("kept", "waiting")
	chat.startAgain()
	ada.wake()
	ada.wantState("kept", "back")
	ada.wantLines("before", "kept")
}

// One address may have a hundred connections. Others do not suffer from it.
func TestTooManyFromOneAddress(t *testing.T) {
	chat := startChat(t, "-origin", "chat.test")
	nginx := startNginx(t, chat)
	var last *websocket.Conn
	for range 100 {
		conn, answer := nginx.join("127.0.0.1")
		if conn == nil {
			t.Fatalf("nginx answers %s", answer.Status)
		}
		last = conn
	}
	if conn, answer := nginx.join("127.0.0.1"); conn != nil || answer.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("one more: nginx answers %s", answer.Status)
	}
	if conn, answer := nginx.join("127.0.0.2"); conn == nil {
		t.Errorf("another address: nginx answers %s", answer.Status)
	}

	ada := newPerson(t)
	ada.visit(nginx.url("/chat/"))
	ada.wantStatus("full")
	ada.say("may I come in?")
	ada.wantState("may I come in?", "waiting")
	last.Close()
	ada.wake()
	ada.wantState("may I come in?", "back")
}
