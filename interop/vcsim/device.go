package main

import (
	"fmt"

	"github.com/vmware/govmomi/vim25/types"
)

// typeName shows a device with what tests compare.
func typeName(device types.BaseVirtualDevice) string {
	kind := fmt.Sprintf("%T", device)[len("*types."):]
	d := device.GetVirtualDevice()
	unit := int32(-1)
	if d.UnitNumber != nil {
		unit = *d.UnitNumber
	}
	if disk, ok := device.(*types.VirtualDisk); ok {
		thin := false
		file := ""
		if backing, ok := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo); ok {
			thin = backing.ThinProvisioned != nil && *backing.ThinProvisioned
			file = backing.FileName
		}
		return fmt.Sprintf("%s %d:%d %d KiB thin=%t %s", kind, d.ControllerKey, unit, disk.CapacityInKB, thin, file)
	}
	return fmt.Sprintf("%s %d:%d", kind, d.ControllerKey, unit)
}
