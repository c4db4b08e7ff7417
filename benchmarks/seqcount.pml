/* The model of benchmarks/explore_pages.py for SPIN, with time as a small counter: one pvclock page per vCPU, a masterclock
 * update of the host's, and a VMM that moves the VM. Each vCPU reads once; a reading is below none that was finished before
 * it began.  spin -a -DNV=3 -DTICKS=2 seqcount.pml; gcc -O2 -DSAFETY pan.c */
#ifndef NV
#define NV 3
#endif
#ifndef TICKS
#define TICKS 2
#endif

byte tsc = 10, slewed = 10, ticks = TICKS, slews = SLEWS;
bit running = 1;
byte rebuild;	/* which store is next, from 1; 0: none */
byte toff, koff, mtsc = 10, mns = 10, latest;
byte ver[NV], pts[NV], pst[NV];

#ifdef SLEWED_BASE
#define BASE slewed
#else
#define BASE tsc
#endif

active proctype time()
{
end:	do
	:: d_step { ticks > 0 -> ticks--; tsc++; slewed++ }
	:: d_step { slews > 0 -> slews--; tsc = tsc + 2; slewed++ }
	od
}

#define PAGE ((rebuild - 1) >> 2)
#define STORE ((rebuild - 1) & 3)

active proctype pages()	/* rebuilds all pages, in four stores each */
{
end:	do
	:: d_step {
		rebuild ->
		if
		:: STORE == 0 || STORE == 3 -> ver[PAGE]++
		:: STORE == 1 -> pts[PAGE] = mtsc + toff
		:: STORE == 2 -> pst[PAGE] = mns + koff
		fi;
		rebuild = (rebuild == 4 * NV -> 0 : rebuild + 1)
	   }
	od
}

active proctype host()	/* one masterclock update */
{
	d_step { !rebuild -> mtsc = tsc; mns = BASE; rebuild = 1 }
end:	false
}

active proctype vmm()	/* pause, save, restore, resume */
{
	byte saved_ns, saved_tsc;
	running = 0;
	saved_ns = mns + tsc - mtsc + koff;
	saved_tsc = tsc + toff;
	toff = saved_tsc - tsc;
	d_step { !rebuild -> koff = saved_ns - BASE; mtsc = tsc; mns = BASE }
	d_step { !rebuild -> rebuild = 1 }
#ifdef RESUME_EARLY
	running = 1;
#else
	d_step { !rebuild -> running = 1 }
#endif
end:	false
}

#define i (_pid - 4)
active [NV] proctype vcpu()
{
	byte v, a, b, t, floor;
	do
	:: d_step { running && (ver[i] & 1) == 0 -> v = ver[i]; floor = latest }
	   d_step { running -> a = pts[i]; b = pst[i] }
	   d_step { running -> t = b + tsc + toff - a }
	   if
#ifdef UNCHECKED
	   :: d_step { running -> assert(t >= floor); if :: t > latest -> latest = t :: else fi; v = 0; a = 0; b = 0; t = 0; floor = 0 } break
#else
	   :: d_step { running && ver[i] == v -> assert(t >= floor); if :: t > latest -> latest = t :: else fi; v = 0; a = 0; b = 0; t = 0; floor = 0 } break
	   :: d_step { running && ver[i] != v -> v = 0; a = 0; b = 0; t = 0; floor = 0 }
#endif
	   fi
	od;
end:	false	/* processes that end would be states of their own */
}
