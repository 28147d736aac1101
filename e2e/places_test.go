package e2e

import (
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// Where the page may be opened, and what it says where it cannot get in.

// proxy passes requests on to a server, as Caddy or nginx would, and keeps the
// host that the browser asked for.
func proxy(addr string) http.Handler {
	target := &url.URL{Scheme: "http", Host: addr}
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
}

// open lets a new person come to an address, with no line that could be cut.
func open(t *testing.T, url string) *tab {
	t.Helper()
	p := newPerson(t)
	p.visit(url)
	p.wantConnected()
	return p
}

func TestHTTPSUnderASubPath(t *testing.T) {
	chat := startChat(t)
	mux := http.NewServeMux()
	mux.Handle("/tools/chat/", http.StripPrefix("/tools/chat", proxy(chat.addr)))
	web := httptest.NewTLSServer(mux)
	defer web.Close()

	ada, bob := open(t, web.URL+"/tools/chat/"), chat.open()
	ada.want("https", "location.protocol === 'https:' && isSecureContext")
	ada.say("hello")
	bob.say("hi")
	ada.wantLines("hello", "hi")
	bob.wantLines("hello", "hi")

	web.CloseClientConnections()
	chat.stop()
	ada.wantStatus("502")
	ada.say("kept")
	chat.startAgain()
	ada.wantState("kept", "back")
}

// A name that is no secure context, as in an office: browsers keep some of what a
// page might use for those that are.
func TestPlainHTTP(t *testing.T) {
	chat := startChat(t)
	web := httptest.NewServer(proxy(chat.addr))
	defer web.Close()
	ada := open(t, strings.Replace(web.URL, "127.0.0.1", "chat.test", 1))
	ada.want("not secure", "location.hostname === 'chat.test' && !isSecureContext")
	bob := chat.open()
	ada.say("hello")
	bob.wantLines("hello")
	ada.reload()
	ada.say("again")
	bob.wantLines("hello", "again")
	ada.want("both are back", "lines().every(line => line.dataset.state !== 'waiting')")
}

func TestFull(t *testing.T) {
	chat := startChat(t, "-max-clients", "1")
	ada := chat.open()
	bob := newPerson(t)
	bob.visit(ada.url) // by her line, which is as good as any
	bob.wantStatus("full")
	bob.say("may I come in?")
	bob.wantState("may I come in?", "waiting")

	bob.byRole("button", "Try now").click() // it goes away as soon as a connection is there
	bob.wantStatus("full")
	ada.close()
	bob.wake()
	bob.wantConnected()
	bob.wantState("may I come in?", "back")
}

// The server is there, but not for this person.
func TestUnreachable(t *testing.T) {
	chat := startChat(t)
	ada, bob := chat.open(), chat.open()
	ada.line.cut()
	ada.wantStatus("no connection.*kept")
	ada.want("she can try now", "visible(one('#try-now'))")
	ada.byRole("button", "Try now").click()
	ada.wantStatus("no connection.*kept")
	ada.line.mend()
	ada.wake()
	ada.wantConnected()
	ada.want("there is nothing to try", "!visible(one('#try-now'))")
	ada.say("here")
	bob.wantLines("here")
}

// A page of another host may not join. Why, the browser keeps to itself, but the
// page is not left without a word.
func TestForeignPage(t *testing.T) {
	chat := startChat(t, "-origin", "elsewhere.test")
	web := httptest.NewServer(proxy(chat.addr))
	defer web.Close()
	ada := newPerson(t)
	ada.visit(strings.Replace(web.URL, "127.0.0.1", "chat.test", 1))
	ada.wantStatus("no WebSocket")
	bob := chat.open() // under an address
	bob.say("hello")
	bob.wantLines("hello")
}

// Something between page and server lets no WebSocket through.
func TestWebSocketsBlocked(t *testing.T) {
	chat := startChat(t)
	blocking := proxy(chat.addr)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("Upgrade")
		blocking.ServeHTTP(w, r)
	}))
	defer web.Close()
	ada := newPerson(t)
	ada.visit(web.URL)
	ada.wantStatus("no WebSocket")
}

// A server that refuses a line and hangs up for it hears it once; the others, which
// it had not taken yet, it hears again.
func TestRefusedIsNotSentAgain(t *testing.T) {
	var mu sync.Mutex
	heard := make(map[string]int)
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, "../home.html") })
	mux.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) {
		upgrader := websocket.Upgrader{Subprotocols: []string{"chat.v1"}}
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		conn.WriteJSON(map[string]any{"type": "hello", "room": "", "name": "guest", "from": "0123456789abcdef", "max": 20, "id": 1, "missed": false})
		for id := time.Now().UnixMicro(); ; id++ {
			var said struct{ Text, Ref string }
			if conn.ReadJSON(&said) != nil {
				return
			}
			mu.Lock()
			heard[said.Text]++
			mu.Unlock()
			if said.Text == "bad" {
				conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1008, "not in this room"), time.Now().Add(time.Second))
				conn.ReadMessage() // until the page has hung up
				return
			}
			conn.WriteJSON(map[string]any{"type": "message", "id": id, "time": time.UnixMicro(id).UTC().Format("2006-01-02T15:04:05.000Z"),
				"from": "0123456789abcdef", "name": "guest", "text": said.Text, "ref": said.Ref})
		}
	})
	web := httptest.NewServer(mux)
	defer web.Close()

	ada := open(t, web.URL)
	ada.say("good")
	ada.wantState("good", "back")
	ada.say("bad")
	ada.wantState("bad", "refused")
	ada.want("she is told why", "/not in this room/.test(document.body.innerText)")
	ada.say("better")
	ada.wantState("better", "back")

	ada.write("more than twenty bytes") // which this server, unlike ours, finds too long
	ada.press("Enter")
	ada.want("it says so", "/too long/i.test(document.body.innerText)")
	ada.box().selectAll()
	ada.insert("the end")
	ada.press("Enter")
	ada.wantState("the end", "back")

	mu.Lock()
	defer mu.Unlock()
	if want := map[string]int{"good": 1, "bad": 1, "better": 1, "the end": 1}; !maps.Equal(heard, want) {
		t.Errorf("the server heard %v, want %v", heard, want)
	}
}

// The example's own page, unmodified, with this server.
func TestExamplesPageHere(t *testing.T) {
	chat := startChat(t)
	mux := http.NewServeMux()
	mux.Handle("/ws", proxy(chat.addr))
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, filepath.Join(exampleFolder, "home.html"))
	})
	web := httptest.NewServer(mux)
	defer web.Close()

	ada, bob, eve := newPerson(t), newPerson(t), chat.open()
	eve.rename("Eve")
	for _, p := range []*tab{ada, bob} {
		p.visit(web.URL)
	}
	eve.wantOnline(3)
	ada.sayAsExample("hello")
	bob.wantExample("hello")
	bob.sayAsExample("<b>hi</b>")
	bob.wantExample("hello", "<b>hi</b>")
	ada.wantExample("hello", "<b>hi</b>")
	eve.say("and me")
	ada.wantExample("hello", "<b>hi</b>", "Eve: and me")
	bob.wantExample("hello", "<b>hi</b>", "Eve: and me")
	eve.wantLines("hello", "<b>hi</b>", "and me")
	chat.stop()
	ada.wantExample("hello", "<b>hi</b>", "Eve: and me", "Connection closed.")
}

func (p *tab) sayAsExample(text string) {
	p.t.Helper()
	p.want("it is open", "one('#msg')")
	look[any](p, "one('#msg').focus()")
	p.insert(text)
	p.press("Enter")
}

func (p *tab) wantExample(texts ...string) {
	p.t.Helper()
	p.want(strings.Join(texts, " / "), "JSON.stringify(all(':scope > div').map(textOf)) === JSON.stringify("+quoted(texts)+")")
}

// This page with the example's server, which knows nothing of chat.v1.
func TestThisPageAtTheExample(t *testing.T) {
	addr := startExample(t, "../home.html")
	l := newLine(t, addr)
	ada, bob := open(t, "http://"+l.addr), open(t, "http://"+addr)
	ada.say("hello", "twice", "twice")
	bob.say("hi")
	bob.wantLines("hello", "twice", "twice", "hi")
	ada.wantLines("hello", "twice", "twice", "hi")
	ada.want("hers are hers", "lines().every(line => line.matches('.own') === (textOf(line.querySelector('.text')) !== 'hi'))")

	// There a message is one line. The page sends it so, and knows it again.
	ada.say("  several\n\tlines\n")
	bob.wantLines("hello", "twice", "twice", "hi", "several  lines")
	ada.wantLines("hello", "twice", "twice", "hi", "several  lines")
	ada.want("it is hers, and back", "lines()[4].matches('.own[data-state=back]')")

	l.interrupt()
	ada.wantNote("lost|closed")
	ada.wantConnected()
	ada.say("back")
	bob.wantLines("hello", "twice", "twice", "hi", "several  lines", "back")
	ada.wantLines("hello", "twice", "twice", "hi", "several  lines", "back")
}

// The link to the room is copied, or shared where the browser can, or selected where it may do neither. A page at
// localhost gives the address on the network.
func TestInvite(t *testing.T) {
	chat := startChat(t, "-addr", ":0")
	_, port, err := net.SplitHostPort(chat.addr)
	if err != nil {
		t.Fatal(err)
	}
	ada := open(t, "http://127.0.0.1:"+port+"/?room=team")
	ada.wantOnline(1) // what stands beside the button is there
	look[any](ada, "void (navigator.clipboard.writeText = async text => { window.copiedText = text; })")
	ada.byRole("button", "Invite").click()
	ada.want("the link is copied", "window.copiedText === location.href && /copied/i.test(one('#invitation').innerText)")
	ada.byRole("button", "Invite").click()
	ada.want("a second click closes it", "!visible(one('#invitation'))")
	look[any](ada, "void (navigator.share = async what => { window.shared = what.url; })")
	ada.byRole("button", "Invite").click()
	ada.want("the link is shared", "window.shared === location.href && !visible(one('#invitation'))")

	plain := open(t, "http://chat.test:"+port+"/")
	plain.wantOnline(1)
	for _, canCopy := range []bool{true, false} {
		look[any](plain, fmt.Sprintf("void (document.execCommand = () => %v)", canCopy))
		plain.byRole("button", "Invite").click()
		plain.want("the link is selected", "!navigator.clipboard && getSelection().toString() === location.href")
		plain.want("it says whether it is copied", fmt.Sprintf("/^copied/i.test(textOf(one('#copied'))) === %v && textOf(one('#copied'))", canCopy))
		plain.press("Escape")
	}

	local := open(t, "http://localhost:"+port+"/?room=team")
	local.wantOnline(2)
	look[any](local, "void (navigator.clipboard.writeText = async text => { window.copiedText = text; })")
	local.byRole("button", "Invite").click()
	local.want("a link", "window.copiedText")
	link := look[string](local, "window.copiedText")
	if addrs, err := net.InterfaceAddrs(); err != nil || !slices.ContainsFunc(addrs, func(a net.Addr) bool {
		ip := a.(*net.IPNet).IP
		return ip.To4() != nil && ip.IsGlobalUnicast()
	}) {
		t.Skip("this machine is on no network")
	}
	bob := open(t, link)
	bob.say("hello")
	local.wantLines("hello")
	bob.want("not at localhost", "location.hostname !== 'localhost' && location.search === '?room=team'")
}
