package main

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// A machine is one virtual machine of the inventory as its own kernel shows it: a directory whose sys and dev have a block device
// for each disk of the lab's datastores that is attached. A device is the disk's flat file by another name.
type guest struct {
	name   string
	root   string
	stores stores

	lock  sync.Mutex
	mode  string // "never": no device; "short": one of another size
	shown map[string]bool
}

const (
	pciSlot    = 192
	pciAddress = "0000:0b:00"
	scsiHost   = 3
	// A kernel takes a moment to see what was attached or detached.
	notice = 200 * time.Millisecond
)

func newGuest(name, root string, s stores) *guest {
	g := &guest{name: name, root: root, stores: s, shown: map[string]bool{}}
	sys := func(parts ...string) string { return filepath.Join(append([]string{root, "sys"}, parts...)...) }
	for _, path := range []string{sys("bus/pci/slots", fmt.Sprint(pciSlot)), sys("bus/scsi/devices"), sys("class/dmi/id"),
		sys("bus/pci/devices", pciAddress+".0", fmt.Sprintf("host%d", scsiHost)), filepath.Join(root, "dev")} {
		must(os.MkdirAll(path, 0o700))
	}
	must(os.WriteFile(sys("bus/pci/slots", fmt.Sprint(pciSlot), "address"), []byte(pciAddress+"\n"), 0o600))
	vm := g.vm()
	for _, device := range vm.Config.Hardware.Device {
		if controller, ok := device.(types.BaseVirtualSCSIController); ok {
			controller.GetVirtualSCSIController().SlotInfo = &types.VirtualDevicePciBusSlotInfo{PciSlotNumber: pciSlot}
		}
	}
	// The firmware's UUID has its first three fields the other way round.
	id := uuid.MustParse(vm.Config.Uuid)
	turned := uuid.UUID{id[3], id[2], id[1], id[0], id[5], id[4], id[7], id[6]}
	copy(turned[8:], id[8:])
	must(os.WriteFile(sys("class/dmi/id/product_uuid"), []byte(turned.String()+"\n"), 0o600))
	return g
}

func (g *guest) vm() *simulator.VirtualMachine {
	for _, entity := range simulator.Map.All("VirtualMachine") {
		if vm := entity.(*simulator.VirtualMachine); vm.Name == g.name {
			return vm
		}
	}
	panic("the lab has no virtual machine " + g.name)
}

func (g *guest) setMode(mode string) {
	g.lock.Lock()
	defer g.lock.Unlock()
	g.mode = mode
}

// attached completes what the simulator leaves out of a disk, and gives its flat file.
func (g *guest) attached(disk *types.VirtualDisk) (string, bool) {
	backing, ok := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
	if !ok {
		return "", false
	}
	var path object.DatastorePath
	path.FromString(backing.FileName)
	store, ours := g.stores[path.Datastore]
	if !ours {
		return "", false
	}
	descriptor := filepath.Join(store, path.Path)
	flat := strings.TrimSuffix(descriptor, ".vmdk") + "-flat.vmdk"
	info, err := os.Stat(flat)
	if err != nil {
		return "", false
	}
	if info.Size() == 0 && disk.CapacityInBytes > 0 {
		must(os.Truncate(flat, disk.CapacityInBytes))
		text := "# Disk DescriptorFile\ncreateType=\"vmfs\"\nRW %d VMFS \"%s\"\n"
		must(os.WriteFile(descriptor, []byte(fmt.Sprintf(text, disk.CapacityInBytes/512, filepath.Base(flat))), 0o600))
	} else if info.Size() > 0 {
		disk.CapacityInBytes, disk.CapacityInKB = info.Size(), (info.Size()+1023)/1024
	}
	// What QueryVirtualDiskUuid answers.
	backing.Uuid = uuid.NewSHA1(uuid.NameSpaceOID, []byte(descriptor)).String()
	// Another disk that was put in the place of one has another.
	if other, err := os.ReadFile(descriptor + ".uuid"); err == nil {
		backing.Uuid = strings.TrimSpace(string(other))
	}
	return flat, true
}

// changed is called after each reconfiguration.
func (g *guest) changed() {
	vm := g.vm()
	simulator.Map.WithLock(vm, func() {
		for _, device := range vm.Config.Hardware.Device {
			if disk, ok := device.(*types.VirtualDisk); ok {
				g.attached(disk)
			}
		}
	})
	time.AfterFunc(notice, g.show)
}

// show makes sys and dev those of the disks that are attached now.
func (g *guest) show() {
	g.lock.Lock()
	defer g.lock.Unlock()
	now := map[string]bool{}
	for _, device := range g.vm().Config.Hardware.Device {
		disk, ok := device.(*types.VirtualDisk)
		if !ok {
			continue
		}
		flat, ours := g.attached(disk)
		if !ours || g.mode == "never" {
			continue
		}
		id := uuid.MustParse(disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo).Uuid)
		address := fmt.Sprintf("%d:0:%d:0", scsiHost, *disk.UnitNumber)
		name := fmt.Sprintf("sd%c", 'b'+rune(*disk.UnitNumber))
		key := address + " " + flat
		now[key] = true
		if g.shown[key] {
			continue
		}
		dev := filepath.Join(g.root, "dev", name)
		os.Remove(dev)
		if g.mode == "short" {
			must(os.WriteFile(dev, make([]byte, 4096), 0o600))
		} else if err := os.Link(flat, dev); err != nil {
			continue // it is being deleted
		}
		at := filepath.Join(g.root, "sys/bus/scsi/devices", address)
		must(os.MkdirAll(filepath.Join(at, "block", name), 0o700))
		must(os.WriteFile(filepath.Join(at, "wwid"), []byte("naa."+hex.EncodeToString(id[:])+"\n"), 0o600))
		g.shown[key] = true
	}
	for key := range g.shown {
		if now[key] {
			continue
		}
		delete(g.shown, key)
		address, _, _ := strings.Cut(key, " ")
		still := false
		for other := range now {
			still = still || strings.HasPrefix(other, address+" ")
		}
		if still {
			continue // another disk has its place already
		}
		at := filepath.Join(g.root, "sys/bus/scsi/devices", address)
		names, _ := os.ReadDir(filepath.Join(at, "block"))
		must(os.RemoveAll(at))
		for _, name := range names {
			os.Remove(filepath.Join(g.root, "dev", name.Name()))
		}
	}
}
