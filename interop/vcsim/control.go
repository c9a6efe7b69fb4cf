package main

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// change is what a test may alter in the inventory.
type change struct {
	Store, Host, Deny, Allow string
	Free                     *int64
	Accessible               *bool
	Access, Maintenance      string
	State                    string
	InMaintenance            *bool
	Drs                      *bool
	VM, Power                string
	Devices                  *string // how attached disks show on the guest: see guest.mode
	Machine, Instance        string
}

type machine struct {
	Name, Path, Folder, Pool, Host, UUID, Instance, GuestID, Firmware string
	MemoryMB                                                          int32
	CPUs                                                              int32
	Devices                                                           []string
}

func name(ref *types.ManagedObjectReference) string {
	if ref == nil {
		return ""
	}
	switch e := simulator.Map.Get(*ref).(type) {
	case *simulator.Folder:
		return e.Name
	case *simulator.ResourcePool:
		return e.Name
	case *simulator.HostSystem:
		return e.Name
	}
	return ref.Value
}

func machines() []machine {
	found := []machine{}
	for _, entity := range simulator.Map.All("VirtualMachine") {
		vm := entity.(*simulator.VirtualMachine)
		one := machine{Name: vm.Name, Path: vm.Config.Files.VmPathName, Folder: name(vm.Parent), Pool: name(vm.ResourcePool),
			Host: name(vm.Runtime.Host), UUID: vm.Config.Uuid, Instance: vm.Config.InstanceUuid, GuestID: vm.Config.GuestId,
			Firmware: vm.Config.Firmware, MemoryMB: vm.Config.Hardware.MemoryMB, CPUs: vm.Config.Hardware.NumCPU}
		for _, device := range vm.Config.Hardware.Device {
			one.Devices = append(one.Devices, typeName(device))
		}
		found = append(found, one)
	}
	return found
}

func (l *lab) control() http.Handler {
	mux := http.NewServeMux()
	read := func(w http.ResponseWriter, r *http.Request, into interface{}) bool {
		decoder := json.NewDecoder(r.Body)
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(into); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return false
		}
		return true
	}
	mux.HandleFunc("/state", func(w http.ResponseWriter, r *http.Request) {
		vms := machines()
		l.lock.Lock()
		defer l.lock.Unlock()
		leases := map[string]interface{}{}
		for id, held := range l.leases {
			leases[id] = map[string]interface{}{"ended": held.ended, "percents": held.percents}
		}
		_ = json.NewEncoder(w).Encode(map[string]interface{}{"sessions": len(l.cookies), "logins": l.logins,
			"logouts": l.logouts, "calls": l.calls, "order": l.order, "uploads": l.uploads, "leases": leases,
			"vms": vms, "requests": l.requests, "rules": len(l.rules)})
	})
	mux.HandleFunc("/rule", func(w http.ResponseWriter, r *http.Request) {
		made := &rule{Times: 1}
		if read(w, r, made) {
			l.lock.Lock()
			defer l.lock.Unlock()
			l.rules = append(l.rules, made)
		}
	})
	mux.HandleFunc("/reset", func(w http.ResponseWriter, r *http.Request) {
		l.lock.Lock()
		defer l.lock.Unlock()
		l.rules, l.order, l.uploads, l.calls = nil, nil, nil, map[string]int{}
		l.leases = map[string]*lease{}
	})
	// A lease without a machine, for as long as the lab runs: a place to upload to.
	mux.HandleFunc("/lease", func(w http.ResponseWriter, r *http.Request) {
		var made struct{ ID string }
		if read(w, r, &made) {
			l.lock.Lock()
			defer l.lock.Unlock()
			l.leases[made.ID] = &lease{last: time.Now().Add(24 * time.Hour)}
		}
	})
	mux.HandleFunc("/expire", func(w http.ResponseWriter, r *http.Request) {
		l.lock.Lock()
		defer l.lock.Unlock()
		for cookie := range l.cookies {
			l.ended[cookie] = true
			delete(l.cookies, cookie)
		}
	})
	mux.HandleFunc("/disk", func(w http.ResponseWriter, r *http.Request) {
		var made struct{ VM, File string }
		if read(w, r, &made) {
			if err := l.addDisk(made.VM, made.File); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
			}
		}
	})
	mux.HandleFunc("/change", func(w http.ResponseWriter, r *http.Request) {
		var made change
		if read(w, r, &made) {
			l.apply(&made)
		}
	})
	return mux
}

func (l *lab) apply(c *change) {
	l.lock.Lock()
	defer l.lock.Unlock()
	if c.Deny != "" {
		l.denied[c.Deny] = true
	}
	if c.Allow != "" {
		delete(l.denied, c.Allow)
	}
	for _, entity := range simulator.Map.All("Datastore") {
		ds := entity.(*simulator.Datastore)
		if ds.Name != c.Store {
			continue
		}
		if c.Free != nil {
			ds.Summary.FreeSpace = *c.Free
		}
		if c.Accessible != nil {
			ds.Summary.Accessible = *c.Accessible
		}
		if c.Maintenance != "" {
			ds.Summary.MaintenanceMode = c.Maintenance
		}
		for i := range ds.Host {
			if c.Access != "" {
				ds.Host[i].MountInfo.AccessMode = c.Access
			}
		}
	}
	for _, entity := range simulator.Map.All("HostSystem") {
		host := entity.(*simulator.HostSystem)
		if host.Name != c.Host {
			continue
		}
		if c.State != "" {
			host.Runtime.ConnectionState = types.HostSystemConnectionState(c.State)
		}
		if c.InMaintenance != nil {
			host.Runtime.InMaintenanceMode = *c.InMaintenance
		}
	}
	for _, entity := range simulator.Map.All("VirtualMachine") {
		if vm := entity.(*simulator.VirtualMachine); c.Machine != "" && vm.Name == c.Machine {
			vm.Config.InstanceUuid = c.Instance
		}
	}
	if c.Devices != nil && l.guest != nil {
		l.guest.setMode(*c.Devices)
	}
	for _, entity := range simulator.Map.All("VirtualMachine") {
		if vm := entity.(*simulator.VirtualMachine); c.VM != "" && vm.Name == c.VM {
			vm.Runtime.PowerState = types.VirtualMachinePowerState(c.Power)
			vm.Summary.Runtime.PowerState = vm.Runtime.PowerState
		}
	}
	if c.Drs != nil {
		for _, entity := range simulator.Map.All("ClusterComputeResource") {
			cluster := entity.(*simulator.ClusterComputeResource)
			if config, ok := cluster.ConfigurationEx.(*types.ClusterConfigInfoEx); ok {
				config.DrsConfig.Enabled = c.Drs
			}
		}
	}
}
