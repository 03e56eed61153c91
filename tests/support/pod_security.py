"""The ``restricted`` profile of the Pod Security Standards (version 1.37), and ours on top: nothing writes to an image.

https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from tests.support.kustomize import Manifest
from tests.support.manifest_schemas import containers, pod_of

VOLUMES: Final = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip
SYSCTLS: Final = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem",
}  # fmt: skip
SECCOMP: Final = ("RuntimeDefault", "Localhost")


def security_problems(manifest: Manifest) -> Iterator[str]:
    """What its pods ask for and may not have."""
    template = pod_of(manifest)
    if template is None:
        return
    pod = template["spec"]
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(field):
            yield f"restricted: {field}"
    for annotation in template.get("metadata", {}).get("annotations", {}):
        if "apparmor" in annotation:
            yield "restricted: AppArmor belongs into the security context"
    for volume in pod.get("volumes", ()):
        if wrong := volume.keys() - VOLUMES - {"name"}:
            yield f"restricted: volume {volume['name']}: {', '.join(wrong)}"
    yield from _context_problems("pod", pod.get("securityContext", {}))
    if pod.get("automountServiceAccountToken") is not False:
        yield "its pods get a token: automountServiceAccountToken must be false"
    for container in containers(manifest):
        yield from _container_problems(container, pod.get("securityContext", {}))


def _context_problems(where: str, context: dict[str, Any]) -> Iterator[str]:
    """What neither a pod nor a container may say."""
    if context.get("runAsUser") == 0:
        yield f"restricted: {where}: runAsUser is 0"
    if context.get("runAsNonRoot") is False:
        yield f"restricted: {where}: runAsNonRoot is false"
    if context.get("seccompProfile", {}).get("type", SECCOMP[0]) not in SECCOMP:
        yield f"restricted: {where}: seccompProfile"
    if context.get("appArmorProfile", {}).get("type", SECCOMP[0]) not in SECCOMP:
        yield f"restricted: {where}: appArmorProfile"
    if context.get("windowsOptions", {}).get("hostProcess"):
        yield f"restricted: {where}: hostProcess"
    options = context.get("seLinuxOptions", {})
    allowed = ("", "container_t", "container_init_t", "container_kvm_t", "container_engine_t")
    if options.get("type", "") not in allowed or options.get("user") or options.get("role"):
        yield f"restricted: {where}: seLinuxOptions"
    for sysctl in context.get("sysctls", ()):
        if sysctl["name"] not in SYSCTLS:
            yield f"restricted: {where}: sysctl {sysctl['name']}"


def _container_problems(container: dict[str, Any], of_pod: dict[str, Any]) -> Iterator[str]:
    name, context = container["name"], container.get("securityContext", {})
    yield from _context_problems(name, context)
    if context.get("privileged"):
        yield f"restricted: {name}: privileged"
    if context.get("allowPrivilegeEscalation") is not False:
        yield f"restricted: {name}: allowPrivilegeEscalation must be false"
    capabilities = context.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", ()) or set(capabilities.get("add", ())) - {"NET_BIND_SERVICE"}:
        yield f"restricted: {name}: capabilities must be dropped, all of them"
    if context.get("procMount", "Default") != "Default":
        yield f"restricted: {name}: procMount"
    if any(port.get("hostPort") for port in container.get("ports", ())):
        yield f"restricted: {name}: hostPort"
    both = of_pod | context
    if both.get("runAsNonRoot") is not True:
        yield f"restricted: {name}: runAsNonRoot must be true"
    if both.get("seccompProfile", {}).get("type") not in SECCOMP:
        yield f"restricted: {name}: seccompProfile must be set"
    if context.get("readOnlyRootFilesystem") is not True:
        yield f"{name}: readOnlyRootFilesystem must be true"
    if not isinstance(both.get("runAsUser"), int):
        yield f"{name}: runAsUser must be a number: the image's may be root"
    _, _, tag = container["image"].rpartition("/")[2].partition(":")
    if "@sha256:" not in container["image"] and tag in ("", "latest"):
        yield f"{name}: image {container['image']} has no version"
