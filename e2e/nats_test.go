package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"chat/e2e/engine"
)

// Several servers share their rooms over NATS. The first two tests show pages; the others do
// not need any, and run at the same time.

// natsServer compiles the engine, once.
var natsServer = sync.OnceValues(func() (string, error) { return engine.Build(folder) })

// startNodes starts so many nodes of NATS. They are killed when the test ends.
func startNodes(t *testing.T, nodes int) *engine.Cluster {
	t.Helper()
	program, err := natsServer()
	if err != nil {
		t.Fatal(err)
	}
	c, err := engine.Start(program, t.TempDir(), nodes)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, n := range c.Nodes {
				t.Logf("the log of node %s:\n%s", n.Name, n.Log())
			}
		}
		c.Close()
	})
	return c
}

// startShared starts a server on nodes.
func startShared(t *testing.T, c *engine.Cluster, flags ...string) *chat {
	t.Helper()
	return startChat(t, append([]string{"-rate", "0", "-nats", c.URLs(), "-nats-replicas", fmt.Sprint(len(c.Nodes))}, flags...)...)
}

// startBehindLines starts a server that reaches the nodes through lines.
func startBehindLines(t *testing.T, c *engine.Cluster, flags ...string) (*chat, []*engine.Line) {
	t.Helper()
	lines, urls, err := c.Lines()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lines {
		t.Cleanup(l.Close)
	}
	return startChat(t, append([]string{"-rate", "0", "-nats", urls, "-nats-replicas", fmt.Sprint(len(c.Nodes))}, flags...)...), lines
}

// admin does something as an administrator of the nodes.
func admin(t *testing.T, c *engine.Cluster, what string, f func(ctx context.Context, nc *nats.Conn, js jetstream.JetStream) error) {
	t.Helper()
	if err := c.Admin(10*time.Second, f); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// stream returns what the engine tells of the log.
func stream(t *testing.T, c *engine.Cluster) (info *jetstream.StreamInfo) {
	t.Helper()
	admin(t, c, "the stream", func(ctx context.Context, _ *nats.Conn, js jetstream.JetStream) error {
		s, err := js.Stream(ctx, "CHAT")
		if err == nil {
			info = s.CachedInfo()
		}
		return err
	})
	return info
}

// get asks a server for a path and returns the status, a header and the body.
func (c *chat) get(path, header string) (status int, value, body string) {
	c.t.Helper()
	resp, err := http.Get("http://" + c.addr + path)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get(header), string(text)
}

// healthy reports whether the server says that it is.
func (c *chat) healthy() bool {
	c.t.Helper()
	status, _, _ := c.get("/healthz", "")
	return status == http.StatusOK
}

// metric returns the value of a series of a server that shows its metrics on an address.
func metric(t *testing.T, addr, series string) float64 {
	t.Helper()
	resp, err := http.Get("http://" + addr + "/metrics")
	if err != nil {
		return 0 // it does not run
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), series+" "); ok {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("the metrics have no %s", series)
	return 0
}

// colours returns the hues of the lines of others on the page, each once: one for a user. Own
// lines have none.
func (p *tab) colours() []string {
	p.t.Helper()
	return look[[]string](p, "[...new Set(lines().filter(line => !line.matches('.own')).map(line => line.querySelector('.who').style.getPropertyValue('--hue')))]")
}

// Two pages behind a balancer are on two servers. One of these is killed, and its page goes on
// at the other.
func TestServersBehindNginx(t *testing.T) {
	nodes := startNodes(t, 3)
	private := []string{freeAddr(t), freeAddr(t)}
	one := startShared(t, nodes, "-origin", "chat.test", "-metrics", private[0])
	two := startShared(t, nodes, "-origin", "chat.test", "-metrics", private[1])
	nginx := startBalancer(t, one, two, &chat{addr: freeAddr(t)}) // nothing listens on the third
	connected := func(i int) bool {
		return metric(t, private[i], `chat_connections{protocol="chat.v1"}`) == 1
	}
	ada, bob := nginx.open("/chat/"), nginx.open("/chat/")
	nginx.secrets = append(nginx.secrets, "Adelheid", "Bonifaz")
	ada.rename("Adelheid")
	bob.rename("Bonifaz")
	ada.wantNames("Adelheid", "Bonifaz")
	for deadline := time.Now().Add(patience); !connected(0) || !connected(1); {
		if time.Now().After(deadline) {
			t.Fatal("the balancer sends both to one server")
		}
		bob.reload() // a connection is to any of them
		ada.wantNames("Adelheid", "Bonifaz")
	}
	bob.wantNames("Adelheid", "Bonifaz")
	ada.say("hello")
	bob.wantSaid("Adelheid", "hello")
	bob.say("hi")
	ada.wantSaid("Bonifaz", "hi")
	said := append([]string{"hello", "hi"}, numbered(5, "how are you?")...)
	ada.say(said[2:]...)
	bob.wantLines(said...)
	before := map[*tab][]string{ada: ada.colours(), bob: bob.colours()}

	begin := time.Now()
	one.kill()
	ada.say("what was that?")
	bob.say("nothing")
	for _, p := range []*tab{ada, bob} {
		p.want("both lines", "texts().includes('what was that?') && texts().includes('nothing')")
		p.wantConnected()
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("the page was on the other server only after %v", took)
	}
	order := look[[]string](ada, "texts()")
	bob.wantLines(order...)
	if !slices.Equal(order[:len(said)], said) || len(order) != len(said)+2 {
		t.Errorf("shown is %q", order)
	}
	for _, p := range []*tab{ada, bob} {
		p.wantNames("Adelheid", "Bonifaz")
		p.want("nothing is missing", "notes().every(note => !/miss/.test(note))")
		if after := p.colours(); len(after) != 1 || after[0] == "" || after[0] != before[p][0] {
			t.Errorf("the colours of the other one's lines are %q, and were %q", after, before[p])
		}
	}
}

// NATS is out of reach for a while. The page says so, keeps what is typed, and comes back by
// itself.
func TestNatsAway(t *testing.T) {
	nodes := startNodes(t, 1)
	one, two := startShared(t, nodes), startShared(t, nodes)
	ada, bob := one.open(), two.open()
	ada.say("before")
	bob.wantLines("before")
	if status, _, body := one.get("/healthz", ""); status != 200 || !strings.HasPrefix(body, "ok") {
		t.Errorf("healthz is %d %q", status, body)
	}

	nodes.Nodes[0].Kill()
	begin := time.Now()
	ada.say("on its way")
	ada.wantState("on its way", "waiting|sent")
	ada.wantNote("the chat's log is out of reach")
	if took := time.Since(begin); took < 8*time.Second || took > 16*time.Second {
		t.Errorf("the page was told after %v, want about 10 s", took)
	}
	bob.wantNote("the chat's log is out of reach")
	ada.wantStatus("full|later|reach|503|kept") // as for any 503
	ada.say("meanwhile")
	ada.wantState("meanwhile", "waiting")
	for _, c := range []*chat{one, two} {
		if status, _, body := c.get("/healthz", ""); status != 503 || len(body) < 10 {
			t.Errorf("healthz is %d %q, want 503 and a sentence", status, body)
		}
		if status, after, _ := c.get("/ws", "Retry-After"); status != 503 || after == "" {
			t.Errorf("a newcomer is answered with %d and Retry-After %q", status, after)
		}
	}

	if err := nodes.Nodes[0].Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the servers are healthy again", func() bool { return one.healthy() && two.healthy() })
	ada.wake()
	bob.wake()
	ada.wantState("meanwhile", "back")
	bob.wantLines("before", "on its way", "meanwhile")
	ada.wantLines("before", "on its way", "meanwhile")
	ada.want("nothing is missing", "notes().every(note => !/miss/.test(note))")
	bob.say("good")
	ada.wantLines("before", "on its way", "meanwhile", "good")
}

// The stream is made as it must be, by whoever is first of servers that start at once, and all
// of them know a key as the same user.
func TestServersStartAtOnce(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 3)
	begin := time.Now()
	nodes.Kill()
	var chats []*chat
	for range 3 { // all of which wait for the engine
		chats = append(chats, startShared(t, nodes, "-keep", "48h", "-nats-max-bytes", "50000000"))
	}
	for _, n := range nodes.Nodes {
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
	}
	var froms []string
	for i, c := range chats {
		m := c.join("", "Ada")
		froms = append(froms, m.wantHello().From)
		m.say(fmt.Sprint("hello from ", i), "")
		m.conn.Close()
	}
	if froms[0] != froms[1] || froms[1] != froms[2] {
		t.Errorf("a key makes %q", froms)
	}
	for _, c := range chats {
		c.join("", "Bob").wantTexts("hello from 0", "hello from 1", "hello from 2")
	}
	info := stream(t, nodes)
	want := jetstream.StreamConfig{Name: "CHAT", Subjects: []string{"chat.>"}, Storage: jetstream.FileStorage, Replicas: 3, AllowDirect: true,
		MaxMsgsPerSubject: 3000, Discard: jetstream.DiscardOld, MaxAge: 48 * time.Hour, MaxBytes: 50_000_000}
	got := info.Config
	if got.Name != want.Name || !slices.Equal(got.Subjects, want.Subjects) || got.Storage != want.Storage || got.Replicas != want.Replicas ||
		got.AllowDirect != want.AllowDirect || got.MaxMsgsPerSubject != want.MaxMsgsPerSubject || got.Discard != want.Discard || got.MaxAge != want.MaxAge || got.MaxBytes != want.MaxBytes ||
		got.RePublish == nil || got.RePublish.Source != "chat.>" || got.RePublish.Destination != "said.>" {
		t.Errorf("the stream is %+v (republish %+v), want %+v", got, got.RePublish, want)
	}
	if first := time.UnixMilli(int64(info.State.FirstSeq)); first.Before(begin.Add(-time.Second)) || first.After(time.Now()) {
		t.Errorf("the first sequence is the time %v, want about %v", first, begin)
	}
}

// A stream that another server or an administrator made is taken as it is, and the log says
// what it lacks.
func TestStreamTakenAsItIs(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 1)
	admin(t, nodes, "making the stream", func(ctx context.Context, _ *nats.Conn, js jetstream.JetStream) error {
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "CHAT", Subjects: []string{"chat.>"}, AllowDirect: true, MaxMsgsPerSubject: 10,
			RePublish: &jetstream.RePublish{Source: "chat.>", Destination: "said.>"}})
		return err
	})
	c := startShared(t, nodes)
	m := c.join("", "Ada")
	m.say("hello", "")
	m.wantTexts("hello")
	if info := stream(t, nodes); info.Config.MaxMsgsPerSubject != 10 {
		t.Errorf("the stream was changed to %+v", info.Config)
	}
	eventually(t, "the log names the difference", func() bool {
		return strings.Contains(c.log.String(), "max_msgs_per_subject 3000")
	})
}

// A turn is stored, its acknowledgement is lost on the way, and it is said again when the engine no
// longer knows it: everybody receives its lines once, in order, also those of classic clients,
// which have no id of their own.
func TestTurnsSaidAgain(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 1)
	admin(t, nodes, "making the stream", func(ctx context.Context, _ *nats.Conn, js jetstream.JetStream) error {
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "CHAT", Subjects: []string{"chat.>"}, AllowDirect: true, MaxMsgsPerSubject: 3000,
			RePublish: &jetstream.RePublish{Source: "chat.>", Destination: "said.>"}, Duplicates: 100 * time.Millisecond})
		return err
	})
	one := startShared(t, nodes)
	private := freeAddr(t)
	two, lines := startBehindLines(t, nodes, "-metrics", private)
	ada, robot := one.join("", "Ada"), two.joinProgram("")
	said := numberedFrom0(5, "line")
	for _, text := range said {
		before := stream(t, nodes).State.Msgs
		lines[0].HoldAnswers()
		robot.say(text)
		eventually(t, "the turn is stored", func() bool { return stream(t, nodes).State.Msgs > before })
		time.Sleep(200 * time.Millisecond) // until the engine has forgotten it
		lines[0].Cut()
		if err := lines[0].Mend(); err != nil {
			t.Fatal(err)
		}
		robot.wantHeard(text)
	}
	robot.say("the end")
	ada.wantTexts(append(said, "the end")...)
	robot.wantHeard("the end")
	if got, want := robot.heard.String(), strings.Join(append(said, "the end", ""), "\n"); got != want {
		t.Errorf("the robot received %q, want %q", got, want)
	}
	if stored, again := stream(t, nodes).State.Msgs, metric(t, private, "chat_nats_repeated_total"); stored < 10 || again < 4 {
		t.Errorf("%d turns are stored, and %v were said again: this shows little", stored, again)
	}
}

// In both protocols and in rooms of all names, what is said on one server is received on the
// others: in one order, with the same ids, which grow.
func TestOneRoomOnManyServers(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 1)
	one, two := startShared(t, nodes), startShared(t, nodes)
	for _, room := range []string{"", "team", "日本語", "a_b-c"} {
		members := []*member{one.join(room, "Ada"), two.join(room, "Bob"), two.join(room, "Eve")}
		var talking sync.WaitGroup
		for i, m := range members {
			talking.Go(func() {
				for n := range 30 {
					m.say(fmt.Sprint(i, " says ", n), fmt.Sprint(i, "-", n))
				}
			})
		}
		talking.Wait()
		eventually(t, "all is received", func() bool {
			return !slices.ContainsFunc(members, func(m *member) bool { return len(m.texts()) < 90 })
		})
		first := members[0].received("message")
		for _, m := range members[1:] {
			for i, e := range m.received("message") {
				if e.Line != first[i].Line {
					t.Fatalf("in %q one received %s, another %s", room, first[i].Line, e.Line)
				}
			}
		}
		for i := range first[1:] {
			if first[i+1].ID <= first[i].ID || first[i+1].ID >= 1<<53 {
				t.Errorf("in %q after the id %d comes %d", room, first[i].ID, first[i+1].ID)
			}
		}
		late := two.join(room, "Zoe") // a newcomer gets the last fifty
		eventually(t, "what is kept", func() bool { return len(late.received("message")) == 50 })
	}
	robot := one.joinProgram("Robot")
	ada := two.join("", "Ada")
	ada.say("hello, robot", "")
	robot.wantHeard("Ada: hello, robot")
	robot.say("beep")
	eventually(t, "the robot is heard", func() bool { return slices.Contains(ada.texts(), "beep") })
}

// A message is sent again to another server, as a page does that moves: it is received once,
// and its sender is answered with the first.
func TestSentAgainToAnotherServer(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 1)
	one, two := startShared(t, nodes), startShared(t, nodes)
	ada, bob := one.join("", "Ada"), two.join("", "Bob")
	ada.say("once", "ref-1")
	bob.wantTexts("once")
	id := bob.received("message")[0].ID

	ada.conn.Close()
	ada = two.resume("", "Ada", fmt.Sprint(id))
	for range 3 {
		ada.say("once", "ref-1")
	}
	ada.wantTexts("once", "once", "once")
	for _, e := range ada.received("message") {
		if e.ID != id || e.Ref != "ref-1" {
			t.Errorf("the answer is %s, want the id %d", e.Line, id)
		}
	}
	bob.say("more", "")
	bob.wantTexts("once", "more")

	// What has long been dropped from what is kept is still known.
	for n := range 700 {
		bob.say(fmt.Sprint("much ", n), "")
	}
	eventually(t, "much is received", func() bool { return len(bob.texts()) == 702 })
	eve := one.join("", "Eve")
	ada.say("once", "ref-1")
	ada.say("the end", "")
	eventually(t, "the end", func() bool { return slices.Contains(eve.texts(), "the end") })
	if texts := eve.texts(); slices.Contains(texts, "once") {
		t.Errorf("received again: %s", some(texts))
	}
}

// A server that comes later knows what was said before, a resume position of another server
// included. Who resumes past what is kept is told.
func TestResumeOnAnotherServer(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 1)
	one := startShared(t, nodes)
	ada := one.join("team", "Ada")
	if hello := ada.wantHello(); hello.Missed {
		t.Error("a newcomer was told that messages are missing")
	}
	for n := range 600 {
		ada.say(fmt.Sprint("line ", n), "")
	}
	eventually(t, "all is received", func() bool { return len(ada.texts()) == 600 })
	all := ada.received("message")

	two := startShared(t, nodes)
	last := two.resume("team", "Bob", fmt.Sprint(all[599].ID))
	recent := two.resume("team", "Eve", fmt.Sprint(all[399].ID))
	old := two.resume("team", "Zoe", fmt.Sprint(all[9].ID))
	unknown := two.resume("team", "Max", fmt.Sprint(all[599].ID+1_000_000))
	for _, c := range []struct {
		m      *member
		first  int // of the lines that it receives
		missed bool
	}{{last, 600, false}, {recent, 400, false}, {old, 100, true}, {unknown, 550, true}} {
		eventually(t, "what is kept", func() bool { return len(c.m.texts()) == 600-c.first })
		if hello := c.m.wantHello(); hello.Missed != c.missed || hello.ID != all[599].ID {
			t.Errorf("the hello is %s, want missed %v and the id %d", hello.Line, c.missed, all[599].ID)
		}
		for i, e := range c.m.received("message") {
			if e.Line != all[c.first+i].Line {
				t.Fatalf("received %s, want %s", e.Line, all[c.first+i].Line)
			}
		}
	}
}

// A server that hears nothing of the engine for a while lets nobody in whose position it has
// not reached, and does not take it for unknown.
func TestResumeOnASlowServer(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 1)
	fast := startShared(t, nodes)
	slow, lines := startBehindLines(t, nodes)
	ada := fast.join("", "Ada")
	bob := slow.join("", "Bob") // so that the room is open there
	ada.say("before", "")
	bob.wantTexts("before")

	lines[0].Freeze()
	ada.say("one", "")
	ada.say("two", "")
	ada.wantTexts("before", "one", "two")
	moved := make(chan *member)
	go func() {
		m, _, err := tryJoin(t, slow.addr, url.Values{"name": {"Ada"}, "key": {"key of Ada"}, "after": {fmt.Sprint(ada.received("message")[2].ID)}})
		for err == nil && len(m.received("hello")) == 0 && t.Context().Err() == nil {
			time.Sleep(5 * time.Millisecond)
		}
		if err != nil {
			t.Error(err)
		}
		moved <- m
	}()
	select {
	case <-moved:
		t.Fatal("a server that has not received a position lets a client in that has")
	case <-time.After(1500 * time.Millisecond): // shorter than what makes the server connect again
	}
	lines[0].Mend()
	m := <-moved
	if hello := m.wantHello(); hello.Missed {
		t.Errorf("the hello is %s", hello.Line)
	}
	ada.say("three", "")
	m.wantTexts("three")
	bob.wantTexts("before", "one", "two", "three")
}

// What is in the log and cannot be read is skipped, and what can is cleaned.
func TestStrayMessagesInTheLog(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 1)
	one, two := startShared(t, nodes), startShared(t, nodes)
	ada, bob := one.join("", "Ada"), two.join("", "Bob")
	ada.say("before", "")
	bob.wantTexts("before")
	admin(t, nodes, "publishing", func(ctx context.Context, _ *nats.Conn, js jetstream.JetStream) error {
		for _, stray := range []string{"", "no turn", "{}", `{"v":99}`, "[1,2]", strings.Repeat("x", 200_000), "\xff\xfe"} {
			if _, err := js.Publish(ctx, "chat.lobby", []byte(stray)); err != nil {
				return err
			}
		}
		if _, err := js.Publish(ctx, "chat.room", []byte("no room")); err != nil {
			return err
		}
		lying := nats.NewMsg("chat.lobby")
		for name, value := range map[string]string{"Nats-Stream": "OTHER", "Nats-Sequence": "1", "Nats-Last-Sequence": "1", "Nats-Subject": "chat.room.other"} {
			lying.Header.Set(name, value)
		}
		if _, err := js.PublishMsg(ctx, lying); err != nil {
			return err
		}
		for _, status := range []string{"404", "503", "204"} { // as JetStream answers
			answer := nats.NewMsg("chat.lobby")
			answer.Header.Set("Status", status)
			if _, err := js.PublishMsg(ctx, answer); err != nil {
				return err
			}
		}
		return nil
	})
	publishGarbled(t, nodes.Nodes[0], "chat.lobby")
	publishGarbled(t, nodes.Nodes[0], "chat.lobby")
	ada.say("after", "")
	bob.wantTexts("before", "after")
	ada.wantTexts("before", "after")
	late := startShared(t, nodes).join("", "Late") // it reads all this from the log
	late.wantTexts("before", "after")
	eve := two.resume("", "Eve", fmt.Sprint(bob.received("message")[0].ID))
	eve.wantTexts("after")
	if eve.wantHello().Missed {
		t.Error("a position before stray messages counts as missed")
	}
}

// publishGarbled publishes a message whose header no client of NATS can read.
func publishGarbled(t *testing.T, n *engine.Node, subject string) {
	t.Helper()
	conn, err := net.Dial("tcp", n.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	header := "NATS/1.0\r\nno colon\r\n\r\n"
	fmt.Fprintf(conn, "CONNECT {\"headers\":true,\"verbose\":false}\r\nHPUB %s %d %d\r\n%s\r\nPING\r\n", subject, len(header), len(header), header)
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	for answers := bufio.NewScanner(conn); answers.Scan(); {
		switch line := answers.Text(); {
		case line == "PONG":
			return
		case strings.HasPrefix(line, "-ERR"):
			t.Fatal(line)
		}
	}
	t.Fatal("the node does not answer")
}

// The stream is deleted, or made anew, under the servers: those who are there are disconnected,
// come back, and are told what they missed. Ids go on above the old ones.
func TestStreamDeleted(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 3)
	one, two := startShared(t, nodes), startShared(t, nodes)
	ada, bob := one.join("", "Ada"), two.join("", "Bob")
	ada.say("before", "")
	bob.wantTexts("before")
	last := bob.received("message")[0].ID
	admin(t, nodes, "deleting the stream", func(ctx context.Context, _ *nats.Conn, js jetstream.JetStream) error {
		return js.DeleteStream(ctx, "CHAT")
	})
	ada.wantClosed(1012, " ")
	bob.wantClosed(1012, " ")
	ada, bob = one.resume("", "Ada", fmt.Sprint(last)), two.resume("", "Bob", fmt.Sprint(last))
	for _, m := range []*member{ada, bob} {
		if hello := m.wantHello(); !hello.Missed {
			t.Errorf("the hello is %s", hello.Line)
		}
	}
	ada.say("after", "")
	bob.wantTexts("after")
	ada.wantTexts("after")
	if id := bob.received("message")[0].ID; id <= last {
		t.Errorf("after %d comes the id %d", last, id)
	}
}

// The stream is emptied: nobody is disconnected, what was there is gone, and who resumes is told.
func TestStreamPurged(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 1)
	one := startShared(t, nodes)
	ada := one.join("", "Ada")
	for n := range 3 {
		ada.say(fmt.Sprint("before ", n), "")
	}
	ada.wantTexts(numberedFrom0(3, "before")...)
	first := ada.received("message")[0].ID
	admin(t, nodes, "emptying the stream", func(ctx context.Context, _ *nats.Conn, js jetstream.JetStream) error {
		s, err := js.Stream(ctx, "CHAT")
		if err != nil {
			return err
		}
		return s.Purge(ctx)
	})
	ada.say("after", "")
	ada.wantTexts(append(numberedFrom0(3, "before"), "after")...)
	two := startShared(t, nodes)
	bob := two.resume("", "Bob", fmt.Sprint(first))
	bob.wantTexts("after")
	if !bob.wantHello().Missed {
		t.Error("messages are gone, and the hello does not say so")
	}
}

func numberedFrom0(n int, what string) (lines []string) {
	for i := range n {
		lines = append(lines, fmt.Sprint(what, " ", i))
	}
	return lines
}

// A node comes back with an older store, as from a backup: the log ends below what servers have
// read. Those who are there are disconnected and come back, and the room goes on.
func TestStreamGoneBackwards(t *testing.T) {
	for _, grows := range []bool{false, true} {
		t.Run(fmt.Sprintf("grows=%v", grows), func(t *testing.T) {
			t.Parallel()
			goBackwards(t, grows)
		})
	}
}

// goBackwards replaces the log by an older one, which grows beyond the end of the lost one at once
// or does not.
func goBackwards(t *testing.T, grows bool) {
	nodes := startNodes(t, 1)
	node := nodes.Nodes[0]
	one := startShared(t, nodes)
	ada := one.join("", "Ada")
	ada.say("old", "")
	ada.wantTexts("old")
	store, backup := filepath.Join(filepath.Dir(node.Config), node.Name), filepath.Join(t.TempDir(), "backup")
	node.Stop()
	if err := os.CopyFS(backup, os.DirFS(store)); err != nil {
		t.Fatal(err)
	}
	if err := node.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server is there again", func() bool { return one.healthy() })
	for n := range 20 {
		ada.say(fmt.Sprint("lost ", n), "")
	}
	eventually(t, "all is received", func() bool { return len(ada.texts()) == 21 })
	last := ada.received("message")[20].ID

	node.Stop()
	err := os.RemoveAll(store)
	if err == nil {
		err = os.CopyFS(store, os.DirFS(backup))
	}
	if err == nil {
		err = node.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"old"}
	if grows {
		admin(t, nodes, "publishing", func(ctx context.Context, _ *nats.Conn, js jetstream.JetStream) error {
			for n := range 30 {
				m := nats.NewMsg("chat.lobby")
				m.Header.Set("Nats-Msg-Id", fmt.Sprint("other.", n+1))
				m.Data = fmt.Appendf(nil, `{"time":"2026-01-02T03:04:05.678Z","lines":[{"from":"f","text":"%d"}]}`, n)
				if _, err := js.PublishMsg(ctx, m); err != nil {
					return err
				}
				want = append(want, fmt.Sprint(n))
			}
			return nil
		})
	}
	ada.wantClosed(1012, " ")
	ada = one.resume("", "Ada", fmt.Sprint(last))
	if !ada.wantHello().Missed {
		t.Error("a position that the log no longer has is not told as missed")
	}
	ada.wantTexts(want...)
	ada.say("new", "")
	ada.wantTexts(append(want, "new")...)
}

// Who is online is known over all servers. A server that dies is forgotten, and who was there
// with it.
func TestOnlineOverServers(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 1)
	one, two := startShared(t, nodes), startShared(t, nodes)
	ada := one.join("", "Ada")
	ada.wantOnline(1, 3*time.Second)
	bob, again := two.join("", "Bob"), two.join("", "Ada") // who is there on both servers, and is one
	two.join("other", "Eve")
	ada.wantOnline(2, 5*time.Second)
	bob.wantOnline(2, 5*time.Second)
	again.conn.Close()
	online := ada.received("online")
	if names := online[len(online)-1].Names; !slices.Equal(names, []string{"Ada", "Bob"}) {
		t.Errorf("%q are online", names)
	}
	three := startShared(t, nodes)
	three.join("", "Zoe").wantOnline(3, 15*time.Second) // a server that starts learns of the others
	ada.wantOnline(3, 5*time.Second)
	three.stop() // says so
	ada.wantOnline(2, 40*time.Second)
	two.kill()
	begin := time.Now()
	ada.wantOnline(1, 45*time.Second)
	if took := time.Since(begin); took < 15*time.Second {
		t.Errorf("a server that is silent was forgotten after %v, want about 30 s", took)
	}
}

// Many are counted, and not named.
func TestManyOnlineOverServers(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 1)
	one, two := startShared(t, nodes), startShared(t, nodes)
	ada := one.join("", "Ada")
	for n := range 60 {
		[]*chat{one, two}[n%2].join("", fmt.Sprint("user ", n))
	}
	ada.wantOnline(61, 20*time.Second)
	if online := ada.received("online"); online[len(online)-1].Names != nil {
		t.Errorf("61 are online, and named: %q", online[len(online)-1].Names)
	}
}

// A server starts before there is an engine: newcomers wait for a moment and are refused, and it
// is there as soon as the engine is.
func TestStartBeforeTheEngine(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 1)
	nodes.Kill()
	c := startShared(t, nodes)
	begin := time.Now()
	status, after, _ := c.get("/ws?room=team", "Retry-After")
	if took := time.Since(begin); status != 503 || after == "" || took < 2*time.Second || took > 6*time.Second {
		t.Errorf("answered with %d and Retry-After %q after %v, want 503 after 3 s", status, after, took)
	}
	time.AfterFunc(500*time.Millisecond, func() { nodes.Nodes[0].Start() }) // if it fails, nobody comes in
	m := c.join("team", "Ada")                                              // held, or a moment later
	m.say("hello", "")
	m.wantTexts("hello")
	if !c.healthy() {
		t.Error("not healthy")
	}
}

// A server is cut off from the engine, and others are not. It says so to those who are there
// and to those who ask, it stops in time all the same, and it goes on when it is connected.
func TestServerCutOff(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 3)
	one := startShared(t, nodes)
	private := freeAddr(t)
	two, lines := startBehindLines(t, nodes, "-metrics", private)
	ada, bob := one.join("", "Ada"), two.join("", "Bob")
	bob.say("before", "")
	ada.wantTexts("before")
	position := fmt.Sprint(ada.received("message")[0].ID)

	for _, l := range lines[:2] {
		l.Freeze() // also the one that it uses, perhaps
	}
	bob.say("over the last line", "")
	ada.wantTexts("before", "over the last line")

	for _, l := range lines {
		l.Freeze()
	}
	bob.say("on its way", "on its way")
	bob.wantClosed(1013, "the chat's log is out of reach")
	if status, _, _ := two.get("/healthz", ""); status != 503 {
		t.Errorf("healthz is %d", status)
	}
	if m, answer, err := tryJoin(t, two.addr, nil); m != nil || answer == nil || answer.StatusCode != 503 || answer.Header.Get("Retry-After") == "" {
		t.Errorf("a newcomer is answered with %v, %v", answer, err)
	}
	if !one.healthy() {
		t.Error("the other server is not healthy")
	}
	bob = one.resume("", "Bob", position) // as the page does: to another server, with what has not come back
	bob.say("on its way", "on its way")
	eventually(t, "received", func() bool { return slices.Contains(ada.texts(), "on its way") })

	for _, l := range lines {
		l.Mend()
	}
	eventually(t, "healthy again, and what was under way is stored", func() bool {
		return two.healthy() && metric(t, private, "chat_nats_turns_under_way") == 0
	})
	eve := two.resume("", "Eve", position)
	eve.say("after", "")
	eventually(t, "received", func() bool { return slices.Contains(ada.texts(), "after") })
	ada.wantTexts("before", "over the last line", "on its way", "after")
	eve.wantTexts("over the last line", "on its way", "after")

	for _, l := range lines {
		l.Cut()
	}
	eve.say("too late", "")
	two.stop() // checks that it takes at most six seconds
}

// The node that a server is connected to is cut off from the others. The server goes to another
// one.
func TestNodeCutOff(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 3)
	one := startShared(t, nodes)
	ada := one.join("", "Ada")
	_, followers := roles(t, nodes)
	two, lines := startBehindLines(t, nodes)
	for i, n := range nodes.Nodes {
		if n != followers[0] {
			lines[i].Cut()
		}
	}
	bob := two.join("", "Bob")
	bob.say("before", "")
	ada.wantTexts("before")
	for _, l := range lines {
		l.Mend()
	}

	one.stop() // or it may be at that node, too
	one.startAgain()
	for _, l := range nodes.Routes(followers[0]) {
		l.Cut()
	}
	begin := time.Now()
	bob.say("over which node?", "")
	bob.wantTexts("before", "over which node?")
	if took := time.Since(begin); took > 12*time.Second {
		t.Errorf("received only after %v", took)
	}
	one.join("", "Ada").wantTexts("before", "over which node?")
}

// While the engine hangs, for less time than it takes to be away, what is said gathers up to a
// bound, and then senders feel backpressure. Then all is received, in the order in which each said
// it.
func TestBackpressureWhileFrozen(t *testing.T) {
	t.Parallel()
	const senders, each = 5, 4000 // of 4 KB: 80 MB in all
	nodes := startNodes(t, 1)
	one, two := startShared(t, nodes), startShared(t, nodes)
	var receivers []*member
	var sending sync.WaitGroup
	senderOf := make([]*member, senders)
	for i := range senders {
		senderOf[i] = one.join(fmt.Sprint("room-", i), "Ada")
		receivers = append(receivers, two.join(fmt.Sprint("room-", i), "Bob"))
	}
	before := residentMemory(t, one)
	nodes.Nodes[0].Freeze()
	for _, m := range senderOf {
		sending.Go(func() {
			for n := range each {
				frame := fmt.Sprintf(`{"text":"%d %s"}`, n, strings.Repeat("x", 4000))
				if err := m.conn.WriteMessage(1, []byte(frame)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	time.Sleep(6 * time.Second) // what gathers in that time is what there is room for
	if grown := (residentMemory(t, one) - before) >> 20; grown > 30 {
		t.Errorf("five rooms hold %d MiB more, want a bounded part of the 80 MB that are sent", grown)
	}
	nodes.Nodes[0].Thaw()
	sending.Wait()
	for _, m := range receivers {
		eventually(t, "all is received", func() bool { return len(m.texts()) == each })
		for n, text := range m.texts() {
			if !strings.HasPrefix(text, fmt.Sprint(n, " ")) {
				t.Fatalf("at the place %d is %.20q", n, text)
			}
		}
	}
}

// All that a server reaches is a node that lags and has no leader: it answers, with an end below
// what the server has read. Nothing is lost for that, and nobody may be told so.
func TestOnlyANodeThatLags(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 3)
	c := startShared(t, nodes)
	ada := c.join("", "Ada")
	ada.say("before", "")
	ada.wantTexts("before")
	if err := nodes.AwaitCurrent("CHAT"); err != nil {
		t.Fatal(err)
	}
	leader, followers := roles(t, nodes)
	for _, l := range nodes.Routes(followers[0]) {
		l.Cut()
	}
	bob := startChat(t, "-nats", leader.URL()+","+followers[1].URL()).join("", "Bob")
	for n := range 20 {
		bob.say(fmt.Sprint("line ", n), "")
	}
	all := append([]string{"before"}, numberedFrom0(20, "line")...)
	ada.wantTexts(all...) // from the lagging node's client or not: it goes elsewhere
	leader.Kill()
	followers[1].Kill()
	for _, l := range nodes.Routes(followers[0]) {
		if err := l.Mend(); err != nil {
			t.Fatal(err)
		}
	}
	ada.wantClosed(1013, "the chat's log is out of reach")

	start(t, leader)
	start(t, followers[1])
	eventually(t, "healthy again", c.healthy)
	last := ada.received("message")[20].ID
	ada = c.resume("", "Ada", fmt.Sprint(last))
	if hello := ada.wantHello(); hello.Missed {
		t.Errorf("the hello is %s", hello.Line)
	}
	ada.say("after", "")
	ada.wantTexts("after")
}

// All that a server reaches is a node that was cut off from the others, and for a while takes
// itself for the leader still: its end is below what the others have stored meanwhile. Nothing is
// lost for that, and nobody may be told so.
func TestOnlyALeaderThatIsStale(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 3)
	c, lines := startBehindLines(t, nodes)
	ada := c.join("", "Ada")
	ada.say("before", "")
	ada.wantTexts("before")
	if err := nodes.AwaitCurrent("CHAT"); err != nil {
		t.Fatal(err)
	}
	leader, _ := roles(t, nodes)
	reachOnly := func(isLeader bool) {
		for i, n := range nodes.Nodes {
			if (n == leader) != isLeader {
				lines[i].Cut()
			} else if err := lines[i].Mend(); err != nil {
				t.Fatal(err)
			}
		}
	}
	reachOnly(false)
	for _, l := range nodes.Routes(leader) {
		l.Cut()
	}
	others := slices.DeleteFunc(slices.Clone(nodes.Nodes), func(n *engine.Node) bool { return n == leader })
	roles(t, &engine.Cluster{Nodes: others}) // they have one
	eventually(t, "healthy", c.healthy)
	ada = c.resume("", "Ada", fmt.Sprint(ada.received("message")[0].ID)) // she may have been disconnected
	ada.say("to the new leader", "")
	ada.say("and more", "")
	ada.wantTexts("to the new leader", "and more")
	reachOnly(true)
	ada.wantClosed(1013, "the chat's log is out of reach")

	for _, l := range append(nodes.Routes(leader), lines...) {
		if err := l.Mend(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "healthy again", c.healthy)
	last := ada.received("message")[1].ID
	ada = c.resume("", "Ada", fmt.Sprint(last))
	if hello := ada.wantHello(); hello.Missed {
		t.Errorf("the hello is %s", hello.Line)
	}
	ada.say("after", "")
	ada.wantTexts("after")
}

// The nodes' disks are full: nothing can be stored. Those who are there are told, as when NATS is
// out of reach, and do not write into silence.
func TestStoreIsFull(t *testing.T) {
	t.Parallel()
	addr := engineAddr(t)
	startNode(t, "n1", addr, fmt.Sprintf("server_name: n1\nlisten: %q\njetstream { store_dir: %q, max_file_store: 2MB }\n", addr, t.TempDir()))
	c := startChat(t, "-rate", "0", "-nats", "nats://"+addr)
	ada := c.join("", "Ada")
	full := make(chan struct{})
	go func() {
		defer close(full)
		for n := range 3000 {
			frame := fmt.Sprintf(`{"text":"%d %s"}`, n, strings.Repeat("x", 4000))
			if ada.conn.WriteMessage(1, []byte(frame)) != nil {
				return
			}
		}
	}()
	ada.wantClosed(1013, " ")
	<-full
}

// A server that stops says what it has taken before it says goodbye.
func TestStopSaysWhatItHas(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 1)
	one, two := startShared(t, nodes), startShared(t, nodes)
	ada, bob := one.join("", "Ada"), two.join("", "Bob")
	for n := range 200 {
		bob.say(fmt.Sprint("line ", n), "")
	}
	eventually(t, "some are received", func() bool { return len(ada.texts()) > 0 })
	two.stop()
	bob.wantClosed(1001, "the server is stopping")
	n := len(bob.texts())
	eventually(t, "what its sender received, all did", func() bool { return len(ada.texts()) >= n })
	if texts := ada.texts(); !slices.Equal(texts, numberedFrom0(len(texts), "line")) {
		t.Errorf("received %s", some(texts))
	}
}

// Each server is registered with the engine as a service, as nats micro shows it.
func TestRegistration(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 1)
	one, two := startShared(t, nodes), startShared(t, nodes)
	one.join("", "Ada").say("hello", "")
	two.join("", "Bob")
	for _, verb := range []string{"PING", "INFO", "STATS"} {
		var answers []string
		admin(t, nodes, verb, func(ctx context.Context, nc *nats.Conn, _ jetstream.JetStream) error {
			inbox := nc.NewRespInbox()
			s, err := nc.SubscribeSync(inbox)
			if err != nil {
				return err
			}
			if err := nc.PublishRequest("$SRV."+verb+".chat", inbox, nil); err != nil {
				return err
			}
			for {
				m, err := s.NextMsg(time.Second)
				if err != nil {
					return nil // no more
				}
				answers = append(answers, string(m.Data))
			}
		})
		if len(answers) != 2 {
			t.Fatalf("%s is answered with %q, want two servers", verb, answers)
		}
		all := strings.Join(answers, "\n")
		if strings.Count(all, `"name":"chat"`) != 2 {
			t.Errorf("%s is answered with %s", verb, all)
		}
		if verb == "INFO" && (!strings.Contains(all, one.addr) || !strings.Contains(all, two.addr)) {
			t.Errorf("%s does not tell where the servers are: %s", verb, all)
		}
	}
}
