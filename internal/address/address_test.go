package address

import (
	"net"
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
