package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

var thisMachine = regexp.MustCompile(`<_this type="VirtualMachine"[^>]*>([^<]+)<`)

// file is where a descriptor lies here.
func (l *lab) file(name string) string {
	var path object.DatastorePath
	path.FromString(name)
	return filepath.Join(l.stores[path.Datastore], path.Path)
}

func flatOf(descriptor string) string { return strings.TrimSuffix(descriptor, ".vmdk") + "-flat.vmdk" }

// addDisk gives a registered virtual machine the disk that its VMX names: the simulator reads no VMX.
func (l *lab) addDisk(vmName, file string) error {
	info, err := os.Stat(flatOf(l.file(file)))
	if err != nil {
		return err
	}
	for _, entity := range simulator.Map.All("VirtualMachine") {
		vm := entity.(*simulator.VirtualMachine)
		if vm.Name != vmName {
			continue
		}
		unit := int32(len(vm.Config.Hardware.Device))
		disk := &types.VirtualDisk{CapacityInBytes: info.Size(), CapacityInKB: (info.Size() + 1023) / 1024}
		disk.Key, disk.ControllerKey, disk.UnitNumber = 2000+unit, 1000, &unit
		backing := &types.VirtualDiskFlatVer2BackingInfo{DiskMode: "persistent"}
		backing.FileName = file
		disk.Backing = backing
		simulator.Map.WithLock(vm, func() {
			vm.Config.Hardware.Device = append(vm.Config.Hardware.Device, disk)
		})
		return nil
	}
	return fmt.Errorf("there is no %s", vmName)
}

// snapshotMade puts a delta before each disk, as a real snapshot does; the simulator leaves disks alone. A delta here is a whole copy.
func (l *lab) snapshotMade(body []byte) {
	found := thisMachine.FindSubmatch(body)
	if found == nil {
		return
	}
	vm, ok := simulator.Map.Get(types.ManagedObjectReference{Type: "VirtualMachine", Value: string(found[1])}).(*simulator.VirtualMachine)
	if !ok {
		return
	}
	simulator.Map.WithLock(vm, func() {
		for _, device := range vm.Config.Hardware.Device {
			disk, ok := device.(*types.VirtualDisk)
			if !ok {
				continue
			}
			below, ok := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
			if !ok || !strings.HasSuffix(below.FileName, ".vmdk") {
				continue
			}
			if _, err := os.Stat(flatOf(l.file(below.FileName))); err != nil {
				continue
			}
			above := *below
			above.Parent = below
			above.FileName = regexp.MustCompile(`(-\d{6})?\.vmdk$`).ReplaceAllString(below.FileName, fmt.Sprintf("-%06d.vmdk", depth(below)))
			must(copyFile(flatOf(l.file(below.FileName)), flatOf(l.file(above.FileName))))
			must(os.WriteFile(l.file(above.FileName), []byte("# Disk DescriptorFile\ncreateType=\"vmfsSparse\"\n"), 0o600))
			disk.Backing = &above
		}
	})
}

func depth(backing *types.VirtualDiskFlatVer2BackingInfo) int {
	if backing == nil {
		return 0
	}
	return 1 + depth(backing.Parent)
}

func copyFile(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.Create(to)
	if err != nil {
		return err
	}
	defer target.Close()
	_, err = io.Copy(target, source)
	return err
}
