# SPDX-License-Identifier: MIT
"""What the benchmarks share. machine.py and settings.py know the machine, programs.py and sides.py start what is
measured, merging.py, steady.py, family.py, unmodified.py, guests.py and victims.py each measure one kind of workload,
workloads.py is the table of them all; targets.py, tables.py and charts.py tell how it went."""
