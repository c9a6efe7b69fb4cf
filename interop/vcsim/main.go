// The vSphere of the interop tests: govmomi's simulator behind TLS, with what it leaves out and what a test must be
// able to break.
//
// Built with Debian's golang-github-vmware-govmomi-dev (see ../vlab.py). In front of the simulator's own handlers this
// program wants the session's cookie on /folder, keeps what is uploaded to a lease, lets leases time out, counts
// sessions and calls; on a control address it makes methods fail, wait or lose their connection, ends sessions, denies
// privileges, and changes datastores and hosts.
package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

type stores map[string]string

func (s stores) String() string { return fmt.Sprint(map[string]string(s)) }
func (s stores) Set(v string) error {
	name, path, ok := strings.Cut(v, "=")
	if !ok {
		return fmt.Errorf("%s is not name=path", v)
	}
	s[name] = path
	return nil
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// certificate makes one for 127.0.0.1 and localhost, signed by an authority whose own PEM goes to the file.
func certificate(file string) tls.Certificate {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	now := time.Now()
	ca := &x509.Certificate{
		SerialNumber:          big.NewInt(now.UnixNano()),
		Subject:               pkix.Name{CommonName: "lab authority"},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	signed, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	must(err)
	must(os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed}), 0o600))
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano() + 1),
		Subject:      pkix.Name{CommonName: "lab"},
		NotBefore:    ca.NotBefore,
		NotAfter:     ca.NotAfter,
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, caKey)
	must(err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func thumbprint(sum []byte) string {
	parts := make([]string, len(sum))
	for i, b := range sum {
		parts[i] = fmt.Sprintf("%02X", b)
	}
	return strings.Join(parts, ":")
}

// populate gives every host every datastore of the command line, and the inventory a nested folder.
func populate(ctx context.Context, c *govmomi.Client, paths stores) {
	var hosts []mo.HostSystem
	var refs []types.ManagedObjectReference
	for _, host := range simulator.Map.All("HostSystem") {
		refs = append(refs, host.Reference())
	}
	must(c.Retrieve(ctx, refs, []string{"configManager"}, &hosts))
	for name, path := range paths {
		var made *simulator.Datastore
		for i := range hosts {
			system := object.NewHostDatastoreSystem(c.Client, *hosts[i].ConfigManager.DatastoreSystem)
			ds, err := system.CreateLocalDatastore(ctx, name, path)
			must(err)
			made = simulator.Map.Get(ds.Reference()).(*simulator.Datastore)
		}
		mounts := []types.DatastoreHostMount{}
		yes := true
		for _, host := range refs {
			mount := types.HostMountInfo{Path: path, AccessMode: "readWrite", Mounted: &yes, Accessible: &yes}
			mounts = append(mounts, types.DatastoreHostMount{Key: host, MountInfo: mount})
		}
		made.Host = mounts
		made.Summary.Url = "ds:///vmfs/volumes/" + filepath.Base(path) + "/"
		made.Summary.Capacity, made.Summary.FreeSpace = 1<<40, 1<<39
	}
	for _, entity := range simulator.Map.All("Datacenter") {
		folder := object.NewFolder(c.Client, entity.(*simulator.Datacenter).VmFolder)
		restored, err := folder.CreateFolder(ctx, "Restored")
		if err != nil { // a host has no folders
			continue
		}
		_, err = restored.CreateFolder(ctx, "In/ner")
		must(err)
	}
}

func main() {
	paths := stores{}
	esx := flag.Bool("esx", false, "a standalone host")
	dir := flag.String("dir", "", "directory for the certificate and for uploads")
	leaseTimeout := flag.Duration("lease-timeout", 5*time.Minute, "a lease without progress for so long is dead")
	machine := flag.String("machine", "", "directory that stands for the kernel's sys and dev of the appliance")
	appliance := flag.String("appliance", "DC0_H0_VM0", "the virtual machine that -machine is of")
	flag.Var(paths, "datastore", "name=path, may be repeated")
	flag.Parse()
	model := simulator.VPX()
	if *esx {
		model = simulator.ESX()
	} else {
		model.Pool, model.Cluster, model.ClusterHost, model.Host = 1, 1, 2, 1
	}
	must(model.Create())
	// Without an account of its own the simulator lets anybody in.
	model.Service.Listen = &url.URL{User: url.UserPassword("user", "pass")}
	inner := model.Service.NewServer()
	ctx := context.Background()
	client, err := govmomi.NewClient(ctx, inner.URL, true)
	must(err)
	populate(ctx, client, paths)
	pair := certificate(filepath.Join(*dir, "ca.pem"))
	lab := newLab(client, model.Service.ServeMux, paths, *dir, *leaseTimeout)
	if *machine != "" {
		lab.guest = newGuest(*appliance, *machine, paths)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	control, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	// HTTP/1.1 only: a connection that is cut is one request's.
	config := &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1"}}
	sha1sum, sha256sum := sha1.Sum(pair.Certificate[0]), sha256.Sum256(pair.Certificate[0])
	ready, _ := json.Marshal(map[string]string{
		"url":     "https://" + listener.Addr().String() + "/sdk",
		"control": "http://" + control.Addr().String(),
		"sha1":    thumbprint(sha1sum[:]),
		"sha256":  thumbprint(sha256sum[:]),
	})
	temporary := filepath.Join(*dir, "ready.tmp")
	must(os.WriteFile(temporary, ready, 0o600))
	must(os.Rename(temporary, filepath.Join(*dir, "ready.json")))
	go func() { must(http.Serve(control, lab.control())) }()
	quiet := log.New(io.Discard, "", 0)
	server := &http.Server{Handler: lab, ErrorLog: quiet}
	must(server.Serve(tls.NewListener(listener, config)))
}

// replay runs a request through the simulator and keeps its answer.
func (l *lab) replay(r *http.Request, body []byte) *httptest.ResponseRecorder {
	again := r.Clone(r.Context())
	again.Body = io.NopCloser(bytes.NewReader(body))
	answer := httptest.NewRecorder()
	l.mux.ServeHTTP(answer, again)
	return answer
}
