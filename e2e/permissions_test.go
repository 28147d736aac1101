package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"chat/e2e/engine"
)

// The engine as docs/deploy.md sets it up: its own block, in which only the addresses and the
// files are others.

// settings returns docs/deploy.md's nats.conf with changes. Its user has the password
// CHANGE-ME; an administrator of the same account is admin, with the password admin.
func settings(t *testing.T, changes ...change) string {
	t.Helper()
	blocks := deployBlocks(t, "conf")
	if len(blocks) != 1 {
		t.Fatalf("docs/deploy.md has %d conf blocks, want one: nats.conf", len(blocks))
	}
	conf := blocks[0]
	for _, c := range append(changes, change{"users: [{", "users: [{ user: admin, password: admin }, {"}) {
		if !strings.Contains(conf, c.from) {
			t.Fatalf("docs/deploy.md's nats.conf no longer has %q in it, in whose place the test puts %q", c.from, c.to)
		}
		conf = strings.ReplaceAll(conf, c.from, c.to)
	}
	return conf
}

// single returns nats.conf for one node without TLS.
func single(t *testing.T, addr, store string) string {
	t.Helper()
	conf := settings(t, change{"0.0.0.0:4222", addr}, change{"/var/lib/nats", store})
	for _, block := range []string{`(?ms)^tls \{.*?^\}\n`, `(?ms)^cluster \{.*?^\}\n`} {
		cut := regexp.MustCompile(block).ReplaceAllString(conf, "")
		if cut == conf {
			t.Fatalf("docs/deploy.md's nats.conf has no %s", block)
		}
		conf = cut
	}
	return conf
}

// startNode starts a node with a configuration. It is killed when the test ends.
func startNode(t *testing.T, name, addr, conf string) *engine.Node {
	t.Helper()
	program, err := natsServer()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), name+".conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	n := engine.NewNode(program, name, addr, file)
	start(t, n)
	t.Cleanup(func() {
		n.Kill()
		if t.Failed() {
			t.Logf("the log of node %s:\n%s", name, n.Log())
		}
	})
	return n
}

// certificates makes an authority, and a certificate that it signed for 127.0.0.1, in dir.
func certificates(t *testing.T, dir string) (ca, cert, key string) {
	t.Helper()
	write := func(name, kind string, der []byte) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	authority := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	authorityKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	der, err := x509.CreateCertificate(rand.Reader, authority, authority, &authorityKey.PublicKey, authorityKey)
	must(err)
	ca = write("ca.pem", "CERTIFICATE", der)
	node := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: authority.NotBefore, NotAfter: authority.NotAfter,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	nodeKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	der, err = x509.CreateCertificate(rand.Reader, node, authority, &nodeKey.PublicKey, authorityKey)
	must(err)
	cert = write("node.pem", "CERTIFICATE", der)
	der, err = x509.MarshalPKCS8PrivateKey(nodeKey)
	must(err)
	return ca, cert, write("node.key", "PRIVATE KEY", der)
}

// useAll has two servers do everything that they need the engine for. The first of them finds
// nothing there, if the engine is new.
func useAll(t *testing.T, administrator *nats.Conn, flags ...string) {
	t.Helper()
	one := startChat(t, flags...)
	ada := one.join("team", "Ada")
	ada.say("hello", "1")
	ada.wantTexts("hello")
	two := startChat(t, flags...)
	bob := two.join("team", "Bob")
	bob.wantTexts("hello")
	bob.say("hi", "2")
	ada.wantTexts("hello", "hi")
	ada.wantOnline(2, 10*time.Second)
	if a, b := ada.wantHello().From, two.join("team", "Ada").wantHello().From; a != b {
		t.Errorf("a key makes %s and %s", a, b)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := administrator.RequestWithContext(ctx, "$SRV.INFO.chat", nil); err != nil {
		t.Errorf("the servers are not registered: %v", err)
	}
	for _, c := range []*chat{one, two} {
		if strings.Contains(c.log.String(), "CHANGE-ME") {
			t.Errorf("the server's log tells the password:\n%s", c.log)
		}
		c.stop()
	}
}

// administrate connects as the administrator of settings.
func administrate(t *testing.T, addr string, options ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(addr, append(options, nats.UserInfo("admin", "admin"))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// violations returns what the nodes did not allow.
func violations(nodes ...*engine.Node) []string {
	var all []string
	for _, n := range nodes {
		all = append(all, regexp.MustCompile(`.*(?i:violation|authorization).*`).FindAllString(n.Log(), -1)...)
	}
	return all
}

// Three nodes, with TLS between all, and the permissions that docs/deploy.md names, which are
// enough.
func TestDeployedNodes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, cert, key := certificates(t, dir)
	var addrs, routes []string
	for range 3 {
		addrs, routes = append(addrs, engineAddr(t)), append(routes, engineAddr(t))
	}
	var nodes []*engine.Node
	var urls []string
	for i, addr := range addrs {
		name := fmt.Sprint("nats", i+1)
		changes := []change{{"server_name: nats1", "server_name: " + name}, {"0.0.0.0:4222", addr}, {"0.0.0.0:6222", routes[i]},
			{"/var/lib/nats", filepath.Join(dir, name)}, {"/etc/nats/nats1.example.org.pem", cert},
			{"/etc/nats/nats1.example.org.key", key}, {"/etc/nats/ca.pem", ca}}
		for j, r := range routes {
			changes = append(changes, change{fmt.Sprintf("nats%d.example.org:6222", j+1), r})
		}
		nodes = append(nodes, startNode(t, name, addr, settings(t, changes...)))
		urls = append(urls, "tls://chat:CHANGE-ME@"+addr)
	}
	administrator := administrate(t, "tls://"+addrs[0], nats.RootCAs(ca))
	useAll(t, administrator, "-nats", strings.Join(urls, ","), "-nats-replicas", "3", "-nats-ca", ca)
	if v := violations(nodes...); len(v) > 0 {
		t.Errorf("docs/deploy.md names too few permissions: %s", strings.Join(v, "\n"))
	}

	// Without the authority, the servers do not trust the nodes.
	c := startChat(t, "-nats", strings.Join(urls, ","))
	if status, _, _ := c.get("/ws", ""); status != 503 {
		t.Errorf("a server that does not know the authority answers %d", status)
	}
	if !regexp.MustCompile(`(?i)certificate|x509`).MatchString(c.log.String()) {
		t.Errorf("the log does not name the certificate:\n%s", c.log)
	}
}

// engineAddr returns an address for a node.
func engineAddr(t *testing.T) string {
	t.Helper()
	addr, err := engine.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

// permission is one permission's line in nats.conf.
var permission = regexp.MustCompile(`(?m)^ +("[^"/]+"|allow_responses: true)$`)

// Without any one of the permissions, the engine refuses something.
func TestNoPermissionIsMoreThanNeeded(t *testing.T) {
	t.Parallel()
	lines := permission.FindAllString(settings(t), -1)
	lines = slices.DeleteFunc(lines, func(l string) bool { return strings.Contains(l, "nats-route") })
	if len(lines) < 10 {
		t.Fatalf("docs/deploy.md names the permissions %q", lines)
	}
	for n, line := range lines {
		t.Run(strings.TrimSpace(line), func(t *testing.T) {
			t.Parallel()
			addr := engineAddr(t)
			conf := single(t, addr, t.TempDir())
			count := 0 // one subject may be in both lists
			conf = permission.ReplaceAllStringFunc(conf, func(l string) string {
				if strings.Contains(l, "nats-route") {
					return l
				}
				count++
				if count == n+1 {
					return ""
				}
				return l
			})
			node := startNode(t, "nats1", addr, conf)
			administrator := administrate(t, node.URL())
			c, two := startChat(t, "-nats", "nats://chat:CHANGE-ME@"+addr), startChat(t, "-nats", "nats://chat:CHANGE-ME@"+addr)
			eventually(t, "a violation", func() bool {
				for _, c := range []*chat{c, two} {
					if m, _, err := tryJoin(t, c.addr, nil); err == nil {
						m.say("hello", "")
						defer m.conn.Close()
					}
				}
				administrator.Request("$SRV.INFO.chat", nil, 200*time.Millisecond)
				return len(violations(node)) > 0
			})
		})
	}
}

// A server that is refused by the nodes says so, and goes on trying.
func TestWrongPassword(t *testing.T) {
	t.Parallel()
	addr := engineAddr(t)
	startNode(t, "nats1", addr, single(t, addr, t.TempDir()))
	c := startChat(t, "-nats", "nats://chat:wrong@"+addr)
	if status, _, _ := c.get("/ws", ""); status != 503 {
		t.Errorf("answered with %d", status)
	}
	eventually(t, "the log says so", func() bool { return strings.Contains(strings.ToLower(c.log.String()), "authorization") })
	if strings.Contains(c.log.String(), "wrong") {
		t.Errorf("the log tells the password:\n%s", c.log)
	}
}

// With credentials, as nsc makes them, and the same permissions.
func TestCredentials(t *testing.T) {
	t.Parallel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	pair := func(prefix nkeys.PrefixByte) (nkeys.KeyPair, string) {
		t.Helper()
		kp, err := nkeys.CreatePair(prefix)
		must(err)
		public, err := kp.PublicKey()
		must(err)
		return kp, public
	}
	operator, operatorID := pair(nkeys.PrefixByteOperator)
	account, accountID := pair(nkeys.PrefixByteAccount)
	_, systemID := pair(nkeys.PrefixByteAccount)
	ofOperator := jwt.NewOperatorClaims(operatorID)
	ofOperator.SystemAccount = systemID
	ofAccount := jwt.NewAccountClaims(accountID)
	ofAccount.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}
	encoded := make(map[string]string)
	for id, claims := range map[string]jwt.Claims{operatorID: ofOperator, accountID: ofAccount, systemID: jwt.NewAccountClaims(systemID)} {
		text, err := claims.Encode(operator)
		must(err)
		encoded[id] = text
	}
	credentials := func(claims func(*jwt.UserClaims)) string {
		user, userID := pair(nkeys.PrefixByteUser)
		ofUser := jwt.NewUserClaims(userID)
		claims(ofUser)
		token, err := ofUser.Encode(account)
		must(err)
		seed, err := user.Seed()
		must(err)
		text, err := jwt.FormatUserConfig(token, seed)
		must(err)
		file := filepath.Join(t.TempDir(), "chat.creds")
		must(os.WriteFile(file, text, 0o600))
		return file
	}
	publish, subscribe, _ := strings.Cut(settings(t), "subscribe:")
	subjects := func(text string) (list []string) {
		for _, found := range regexp.MustCompile(`(?m)^ {20}"(.*)"$`).FindAllStringSubmatch(text, -1) {
			list = append(list, found[1])
		}
		return list
	}
	file := credentials(func(u *jwt.UserClaims) {
		u.Pub.Allow.Add(subjects(publish)...)
		u.Sub.Allow.Add(subjects(subscribe)...)
		u.Resp = &jwt.ResponsePermission{MaxMsgs: 1, Expires: time.Minute}
	})

	addr := engineAddr(t)
	preload := ""
	for _, id := range slices.Sorted(maps.Keys(encoded)) {
		if id != operatorID {
			preload += id + ": " + encoded[id] + "\n"
		}
	}
	node := startNode(t, "nats1", addr, fmt.Sprintf("server_name: nats1\nlisten: %q\njetstream { store_dir: %q }\noperator: %s\nsystem_account: %s\nresolver: MEMORY\nresolver_preload {\n%s}\n",
		addr, t.TempDir(), encoded[operatorID], systemID, preload))
	administrator, err := nats.Connect(node.URL(), nats.UserCredentials(credentials(func(*jwt.UserClaims) {})))
	must(err)
	defer administrator.Close()
	useAll(t, administrator, "-nats", node.URL(), "-nats-creds", file)
	if v := violations(node); len(v) > 0 {
		t.Errorf("refused: %s", strings.Join(v, "\n"))
	}
}
