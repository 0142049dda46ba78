// Every page: styles may know that scripts run; a form that is on its way is not sent twice.
document.documentElement.classList.add("script");

addEventListener("submit", (event) => {
  const button = event.submitter ?? event.target.querySelector("button");
  if (event.defaultPrevented || !button) return;
  setTimeout(() => button.setAttribute("disabled", ""), 0);
  addEventListener("pageshow", () => button.removeAttribute("disabled"), { once: true });
});
