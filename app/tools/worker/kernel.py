"""System calls by name, on x86-64 and arm64: their numbers, and a way to make one.

Landlock has no wrapper in any C library, and seccomp speaks of numbers only. Linux never changes a number.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

_CALM = """
read 0 63  write 1 64  close 3 57  fstat 5 80  newfstatat 262 79  stat 4 -  lstat 6 -  statx 332 291  lseek 8 62
mmap 9 222  mprotect 10 226  munmap 11 215  mremap 25 216  madvise 28 233  brk 12 214  rt_sigaction 13 134
rt_sigprocmask 14 135  rt_sigreturn 15 139  sigaltstack 131 132  ioctl 16 29  pread64 17 67  readv 19 65  writev 20 66
pipe 22 -  pipe2 293 59  dup 32 23  dup2 33 -  dup3 292 24  fcntl 72 25  poll 7 -  ppoll 271 73  select 23 -
pselect6 270 72  epoll_create1 291 20  epoll_ctl 233 21  epoll_wait 232 -  epoll_pwait 281 22  sched_yield 24 124
nanosleep 35 101  clock_nanosleep 230 115  clock_gettime 228 113  clock_getres 229 114  gettimeofday 96 169
time 201 -  getpid 39 172  getppid 110 173  gettid 186 178  getpgrp 111 -  getpgid 121 155  getsid 124 156
getuid 102 174  geteuid 107 175  getgid 104 176  getegid 108 177  getgroups 115 158  getresuid 118 148
getresgid 120 150  getrlimit 97 163  prlimit64 302 261  getrusage 98 165  times 100 153  uname 63 160  sysinfo 99 179
getrandom 318 278  futex 202 98  set_robust_list 273 99  rseq 334 293  set_tid_address 218 96  exit 60 93
exit_group 231 94  restart_syscall 219 128  access 21 -  faccessat 269 48  faccessat2 439 439  open 2 -  openat 257 56
openat2 437 437  getdents 78 -  getdents64 217 61  getcwd 79 17  readlink 89 -  readlinkat 267 78  statfs 137 43
fstatfs 138 44  umask 95 166  fadvise64 221 223  setitimer 38 103  getitimer 36 102  sched_getaffinity 204 123
landlock_create_ruleset 444 444  landlock_add_rule 445 445  landlock_restrict_self 446 446  seccomp 317 277
"""
"""What a Python process needs to compute, to open what Landlock lets it open, and to narrow itself further."""

_WRITE = """
rename 82 -  renameat 264 38  renameat2 316 276  mkdir 83 -  mkdirat 258 34  rmdir 84 -  unlink 87 -  unlinkat 263 35
truncate 76 45  ftruncate 77 46  creat 85 -  fsync 74 82  fdatasync 75 83  pwrite64 18 68  pwritev 296 70
copy_file_range 326 285  sendfile 40 71
"""
"""What changes files, on top: Landlock says which."""

_NET = """
socket 41 198  connect 42 203  sendto 44 206  sendmmsg 307 269  recvfrom 45 207  recvmsg 47 212  setsockopt 54 208
getsockopt 55 209  getsockname 51 204  getpeername 52 205  shutdown 48 210
"""
"""What talks to other machines, on top: over sockets of two families and three protocols."""

_REFUSED = """
socketpair 53 199  bind 49 200  listen 50 201  accept 43 202  accept4 288 242  sendmsg 46 211  recvmmsg 299 243
execve 59 221  execveat 322 281  fork 57 -  vfork 58 -  clone 56 220  clone3 435 435  kill 62 129  tkill 200 130
tgkill 234 131  rt_sigqueueinfo 129 138  rt_tgsigqueueinfo 297 240  pidfd_open 434 434  pidfd_send_signal 424 424
pidfd_getfd 438 438  ptrace 101 117  process_vm_readv 310 270  process_vm_writev 311 271  process_madvise 440 440
process_mrelease 448 448  kcmp 312 272  setsid 112 157  setpgid 109 154  chmod 90 -  fchmod 91 52  fchmodat 268 53
fchmodat2 452 452  chown 92 -  fchown 93 55  lchown 94 -  fchownat 260 54  utime 132 -  utimes 235 -  futimesat 261 -
utimensat 280 88  setxattr 188 5  lsetxattr 189 6  fsetxattr 190 7  setxattrat 463 463  removexattr 197 14
lremovexattr 198 15  fremovexattr 199 16  removexattrat 466 466  symlink 88 -  symlinkat 266 36  link 86 -
linkat 265 37  mknod 133 -  mknodat 259 33  memfd_create 319 279  memfd_secret 447 447  mount 165 40  umount2 166 39
pivot_root 155 41  chroot 161 51  unshare 272 97  setns 308 268  fsopen 430 430  fsconfig 431 431  fsmount 432 432
fspick 433 433  move_mount 429 429  open_tree 428 428  mount_setattr 442 442  statmount 457 457  listmount 458 458
open_by_handle_at 304 265  name_to_handle_at 303 264  io_uring_setup 425 425  io_uring_enter 426 426
io_uring_register 427 427  bpf 321 280  userfaultfd 323 282  perf_event_open 298 241  keyctl 250 219  add_key 248 217
request_key 249 218  fanotify_init 300 262  fanotify_mark 301 263  inotify_init 253 -  inotify_init1 294 26
inotify_add_watch 254 27  setuid 105 146  setgid 106 144  setreuid 113 145  setregid 114 143  setresuid 117 147
setresgid 119 149  setfsuid 122 151  setfsgid 123 152  setgroups 116 159  capget 125 90  capset 126 91
lsm_set_self_attr 460 460  setpriority 141 140  ioprio_set 251 30  sched_setaffinity 203 122
sched_setscheduler 144 119  sched_setparam 142 118  sched_setattr 314 274  migrate_pages 256 238  move_pages 279 239
init_module 175 105  finit_module 313 273  delete_module 176 106  kexec_load 246 104  kexec_file_load 320 294
reboot 169 142  swapon 167 224  swapoff 168 225  acct 163 89  syslog 103 116  vhangup 153 58  quotactl 179 60
quotactl_fd 443 443  settimeofday 164 170  clock_settime 227 112  clock_adjtime 305 266  adjtimex 159 171
sethostname 170 161  setdomainname 171 162  personality 135 92  iopl 172 -  ioperm 173 -  modify_ldt 154 -
shmget 29 194  shmat 30 196  shmctl 31 195  semget 64 190  semctl 66 191  semtimedop 220 192  semop 65 193
msgget 68 186  msgsnd 69 189  msgrcv 70 188  msgctl 71 187  mq_open 240 180  mq_unlink 241 181  vmsplice 278 75
uselib 134 -  lookup_dcookie 212 18  nfsservctl 180 42  _sysctl 156 -
"""
"""What no worker needs, and what leads out: other processes, rights, links, mounts, kernel interfaces. No list of
what is dangerous can be complete; this one names what a ``command`` worker loses, the other kinds have what the lists
above name and nothing else."""

_MACHINES = ("x86_64", "aarch64")
"""The columns of the lists; ``-``: that machine never had this call."""

CEILING = 466
"""The newest number that the lists were written with: what came later is unknown here, so it is refused unseen."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 36, 38


class Unfit(Exception):  # noqa: N818 # a property of this system, not a fault of ours
    """Why the wall cannot be built here, in words for whoever runs AirLab."""


def _read(text: str) -> dict[str, tuple[int | None, ...]]:
    words = text.split()
    pairs = zip(words[1::3], words[2::3], strict=True)
    numbers = (tuple(None if word == "-" else int(word) for word in pair) for pair in pairs)
    return dict(zip(words[::3], numbers, strict=True))


CALM, WRITE, NET, REFUSED = map(_read, (_CALM, _WRITE, _NET, _REFUSED))
_ALL = {**CALM, **WRITE, **NET, **REFUSED}


@cache
def machine() -> str:
    """This machine, as the kernel names it.

    Raises:
        Unfit: It is none that the lists know, or no Linux.
    """
    name = os.uname().machine
    if sys.platform != "linux":
        raise Unfit(f"the kernel's wall round tools needs Linux; this is {sys.platform}")
    if name not in _MACHINES or sys.byteorder != "little" or sys.maxsize < 2**32:
        raise Unfit(f"the wall round tools is known for x86-64 and arm64, 64 bit; this is {name}")
    return name


def number(name: str, on: str | None = None) -> int | None:
    """The number of a system call; None where that machine does not have it. Raises as ``machine`` does."""
    return _ALL[name][_MACHINES.index(on or machine())]


def call(name: str, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """Make a system call; whole numbers travel with 64 bits.

    Raises:
        OSError: The kernel said no.
        Unfit: This machine is not known.
    """
    which = number(name)
    if which is None:
        raise OSError(38, os.strerror(38), name)
    wide = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return _checked(_libc().syscall(ctypes.c_long(which), *wide), name)


def give_up_new_privileges() -> None:
    """From now on no program that this process becomes gains rights; Landlock and seccomp ask for it."""
    _checked(_libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")


def die_with_parent(signal_number: int) -> None:
    """Ask the kernel for this signal when the thread that forked us ends."""
    _checked(_libc().prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0), "prctl")


def adopt_orphans() -> None:
    """Become the parent of what our children started and left behind."""
    _checked(_libc().prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")


def _checked(answer: int, name: str) -> int:
    if answer < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), name)
    return answer


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc
