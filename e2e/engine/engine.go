// Package engine runs nodes of NATS with JetStream, as many servers of the chat share their
// rooms over. Nodes are processes of the real program, so a test can kill and freeze them,
// cut them off from each other and from a server, and start them again on what they stored.
package engine

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// startTimeout is how long a node may take to listen, and a cluster to elect its leaders.
const startTimeout = 30 * time.Second

// Build compiles the nats-server that this module requires into dir, and returns the path of
// the program. The working directory must be in this module.
func Build(dir string) (program string, err error) {
	program = filepath.Join(dir, "nats-server")
	out, err := exec.Command("go", "build", "-o", program, "github.com/nats-io/nats-server/v2").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building nats-server: %w\n%s", err, out)
	}
	return program, nil
}

// given are the addresses that FreeAddr has returned.
var given sync.Map

// FreeAddr returns an address of this machine alone on which nothing listens, another one each
// time. Its port is below those that the kernel gives to outgoing connections, so it stays free
// while what listened there is stopped.
func FreeAddr() (string, error) {
	for range 100 {
		addr := fmt.Sprint("127.0.0.1:", 10000+rand.IntN(20000))
		l, err := net.Listen("tcp4", addr)
		if err != nil {
			continue
		}
		if _, twice := given.LoadOrStore(addr, true); !twice {
			return addr, l.Close()
		}
		l.Close()
	}
	return "", fmt.Errorf("no port is free")
}

// A Node is one process after another with one configuration, and so one address and one
// store.
type Node struct {
	Name   string // its server_name
	Addr   string // of its listener for clients
	Config string // its configuration file; its store is beside it, under its name

	program string
	log     string // a file

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{} // closed when cmd has exited
}

// NewNode returns a node that runs program with a configuration file, which sets server_name
// to name and listens for clients on addr. The log is a file beside the configuration.
func NewNode(program, name, addr, config string) *Node {
	return &Node{Name: name, Addr: addr, program: program, Config: config, log: config + ".log"}
}

// URL returns the URL of the node for a client without credentials.
func (n *Node) URL() string { return "nats://" + n.Addr }

// Pid returns the number of the node's process, which was started.
func (n *Node) Pid() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cmd.Process.Pid
}

// Start starts the node's process and returns when it listens.
func (n *Node) Start() error {
	log, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd, exited := exec.Command(n.program, "-c", n.Config), make(chan struct{})
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = Child()
	if err := cmd.Start(); err != nil {
		return err
	}
	n.mu.Lock()
	n.cmd, n.exited = cmd, exited
	n.mu.Unlock()
	go func() {
		cmd.Wait() // how it ended, its log tells
		close(exited)
	}()
	for deadline := time.Now().Add(startTimeout); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if conn, err := net.Dial("tcp4", n.Addr); err == nil {
			return conn.Close()
		}
		select {
		case <-exited:
			return fmt.Errorf("node %s does not start:\n%s", n.Name, n.Log())
		default:
		}
	}
	return fmt.Errorf("node %s does not listen after %v:\n%s", n.Name, startTimeout, n.Log())
}

// Signal sends a signal to the node's process.
func (n *Node) Signal(s os.Signal) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cmd.Process.Signal(s) // it may have exited
}

// Freeze stops the node's process, which keeps its connections, until Thaw.
func (n *Node) Freeze() { n.Signal(syscall.SIGSTOP) }

// Thaw lets a frozen process go on.
func (n *Node) Thaw() { n.Signal(syscall.SIGCONT) }

// Kill ends the node's process without a word, also a frozen one, and returns when it has
// ended.
func (n *Node) Kill() { n.end(os.Kill) }

// Stop ends the node's process as an administrator would, and returns when it has ended.
func (n *Node) Stop() { n.end(os.Interrupt) }

func (n *Node) end(s os.Signal) {
	n.mu.Lock()
	exited := n.exited
	n.mu.Unlock()
	n.Signal(s)
	select {
	case <-exited:
	case <-time.After(startTimeout):
		n.Signal(os.Kill)
		<-exited
	}
}

// Log returns the end of what the node logged.
func (n *Node) Log() string {
	text, _ := os.ReadFile(n.log) // without it there is just less to tell
	return string(text[max(0, len(text)-8000):])
}

// A Cluster is nodes with routes to each other, without authentication.
type Cluster struct {
	Nodes []*Node
	lines map[[2]int]*Line // of the routes, from a node to another one, by their numbers
}

// Start starts a cluster whose files are in dir: one node, or several. Each route is a Line.
// The settings are more lines for the configuration of each node. A cluster of several has
// elected its leaders when Start returns. The caller calls Close.
func Start(program, dir string, nodes int, settings ...string) (*Cluster, error) {
	c := &Cluster{lines: make(map[[2]int]*Line)}
	routes := make([]string, nodes) // the addresses for other nodes
	for i := range nodes {
		addr, err := FreeAddr()
		if err != nil {
			return nil, err
		}
		if routes[i], err = FreeAddr(); err != nil {
			return nil, err
		}
		name := fmt.Sprint("n", i+1)
		c.Nodes = append(c.Nodes, NewNode(program, name, addr, filepath.Join(dir, name+".conf")))
	}
	for i, n := range c.Nodes {
		var others []string
		for j := range nodes {
			if j == i {
				continue
			}
			line, err := NewLine(routes[j])
			if err != nil {
				return nil, err
			}
			c.lines[[2]int{i, j}] = line
			others = append(others, "nats-route://"+line.Addr)
		}
		config := fmt.Sprintf("server_name: %s\nlisten: %q\njetstream { store_dir: %q }\n",
			n.Name, n.Addr, filepath.Join(dir, n.Name))
		if nodes > 1 {
			// Nodes and clients must not learn of a way past the lines: port 1 refuses.
			config += fmt.Sprintf("cluster { name: chat, listen: %q, advertise: \"127.0.0.1:1\", no_advertise: true, routes: [%s] }\n",
				routes[i], strings.Join(others, ", "))
		}
		if err := os.WriteFile(n.Config, []byte(config+strings.Join(settings, "\n")), 0o600); err != nil {
			return nil, err
		}
	}
	for _, n := range c.Nodes {
		if err := n.Start(); err != nil {
			c.Close()
			return nil, err
		}
	}
	if err := c.AwaitReady(); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// URLs returns the URLs of all nodes, as the flag -nats takes them.
func (c *Cluster) URLs() string {
	var urls []string
	for _, n := range c.Nodes {
		urls = append(urls, n.URL())
	}
	return strings.Join(urls, ",")
}

// Lines returns a new line to each node, and the URLs of their near ends, as the flag -nats takes
// them. The caller closes the lines.
func (c *Cluster) Lines() (lines []*Line, urls string, err error) {
	for _, n := range c.Nodes {
		l, err := NewLine(n.Addr)
		if err != nil {
			return lines, "", err
		}
		lines, urls = append(lines, l), urls+",nats://"+l.Addr
	}
	return lines, urls[1:], nil
}

// Kill ends all nodes without a word. They may be started again.
func (c *Cluster) Kill() {
	for _, n := range c.Nodes {
		n.mu.Lock()
		started := n.cmd != nil
		n.mu.Unlock()
		if started {
			n.Kill()
		}
	}
}

// Close ends all nodes and the lines between them.
func (c *Cluster) Close() {
	c.Kill()
	for _, l := range c.lines {
		l.Close()
	}
}

// Routes returns the lines of a node to the other ones.
func (c *Cluster) Routes(n *Node) (lines []*Line) {
	for pair, l := range c.lines {
		if c.Nodes[pair[0]] == n || c.Nodes[pair[1]] == n {
			lines = append(lines, l)
		}
	}
	return lines
}
