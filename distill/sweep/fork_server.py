"""Imported first by the process that all local jobs are forked from, which is to tell how each of them ends: it holds
back stop signals, which Slurm, `timeout` or systemd send to it as well. Its jobs let them through (`worker.process`).
"""

import signal

from distill.signals import stop_signals

signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals())
