package address

import (
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strconv"
	"syscall"
	"testing"
)

func TestURLs(t *testing.T) {
	outward := func(v4, v6 string) func(string) net.IP {
		return func(network string) net.IP {
			return net.ParseIP(map[string]string{"udp4": v4, "udp6": v6}[network])
		}
	}
	for _, machine := range []struct{ listen, v4, v6, others, here string }{
		{"::", "192.168.1.20", "2001:db8::20", "http://192.168.1.20:8080", "http://localhost:8080"},
		{"::", "", "2001:db8::20", "http://[2001:db8::20]:8080", "http://localhost:8080"},
		{"::", "169.254.3.4", "2001:db8::20", "http://[2001:db8::20]:8080", "http://localhost:8080"},
		{"::", "", "fe80::20", "", "http://localhost:8080"},
		{"::", "", "", "", "http://localhost:8080"},
		{"0.0.0.0", "192.168.1.20", "2001:db8::20", "http://192.168.1.20:8080", "http://localhost:8080"},
		{"0.0.0.0", "", "2001:db8::20", "", "http://localhost:8080"},
		{"127.0.0.1", "192.168.1.20", "", "", "http://localhost:8080"},
		{"127.0.0.2", "192.168.1.20", "", "", "http://127.0.0.2:8080"},
		{"::1", "192.168.1.20", "", "", "http://localhost:8080"},
		{"10.0.0.7", "192.168.1.20", "", "http://10.0.0.7:8080", "http://10.0.0.7:8080"},
	} {
		others, here := URLs(&net.TCPAddr{IP: net.ParseIP(machine.listen), Port: 8080}, outward(machine.v4, machine.v6))
		if others != machine.others || here != machine.here {
			t.Errorf("%v: %q and %q", machine, others, here)
		}
	}
}

// listen returns a listener on a port whose next ones are taken, too, up to the one that is
// returned.
func listen(t *testing.T) (l net.Listener, free int) {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		port := l.Addr().(*net.TCPAddr).Port
		next, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port+1))
		if err != nil {
			continue
		}
		t.Cleanup(func() { next.Close() })
		if third, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port+2)); err == nil {
			third.Close()
			return l, port + 2
		}
	}
	t.Fatal("no three free ports in a row")
	return nil, 0
}

// A port that is taken, one that is not allowed and an address of another machine have
// different remedies.
func TestExplain(t *testing.T) {
	l, free := listen(t)
	taken := l.Addr().String()
	_, err := net.Listen("tcp", taken)
	want := fmt.Sprintf("-addr: %v (is another chat running? -addr 127.0.0.1:%d is free)", err, free)
	if got := Explain("-addr", taken, err); err == nil || got.Error() != want || !errors.Is(got, err) {
		t.Errorf("%v, want %s", got, want)
	}

	_, err = net.Listen("tcp", "203.0.113.1:8080") // reserved for documentation
	want = fmt.Sprintf("-addr: %v (this machine has no address 203.0.113.1; -addr :8080 listens on all that it has)", err)
	if got := Explain("-addr", "203.0.113.1:8080", err); err == nil || got.Error() != want {
		t.Errorf("%v, want %s", got, want)
	}

	bind := func(errno syscall.Errno) error {
		return &net.OpError{Op: "listen", Net: "tcp", Err: os.NewSyscallError("bind", errno)}
	}
	for _, fault := range []struct {
		addr string
		err  error
		want string // of which $free is a free port
	}{
		{"127.0.0.1:80", bind(syscall.EACCES), `this user may not listen on port 80; -metrics 127.0.0.1:$free is free`},
		{"127.0.0.1:80", bind(syscall.EPERM), `this user may not listen on port 80; -metrics 127.0.0.1:$free is free`},
		{":http", bind(wsaAccess), `this user may not listen on port 80; -metrics :$free is free`},
		{"[::1]:80", bind(wsaAddrInUse), `is another chat running\? (?:-metrics \[::1\]:$free is free|try another port)`}, // the second without IPv6,
		{"127.0.0.1:65535", bind(syscall.EADDRINUSE), `is another chat running\? try another port`},
		{"10.0.0.7:80", bind(wsaAddrNotAvail), `this machine has no address 10.0.0.7; -metrics :80 listens on all that it has`},
		{"nowhere.invalid:80", &net.OpError{Op: "listen", Err: &net.DNSError{Err: "no such host", Name: "nowhere.invalid", IsNotFound: true}},
			`this machine has no address nowhere.invalid; -metrics :80 listens on all that it has`},
	} {
		pattern := regexp.MustCompile(`^-metrics: ` + regexp.QuoteMeta(fault.err.Error()) + ` \(` + regexp.MustCompile(`\$free`).ReplaceAllLiteralString(fault.want, `(?<free>\d+)`) + `\)$`)
		got := Explain("-metrics", fault.addr, fault.err).Error()
		match := pattern.FindStringSubmatch(got)
		if match == nil {
			t.Errorf("%s: %s", fault.addr, got)
			continue
		}
		if len(match) > 1 {
			if port, _ := strconv.Atoi(match[1]); match[1] != "" && port <= 80 {
				t.Errorf("%s: %s", fault.addr, got)
			}
		}
	}
	if got := Explain("-addr", ":8080", bind(syscall.EMFILE)).Error(); got != "-addr: listen tcp: bind: too many open files" {
		t.Errorf("%s", got)
	}
}
